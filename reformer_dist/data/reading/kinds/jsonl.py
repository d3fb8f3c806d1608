"""Lines of JSON: a document for each line, named by the byte where the line begins."""

import json
from collections.abc import Iterator
from contextlib import closing
from operator import itemgetter
from typing import Any

import orjson

from reformer_dist.data.reading.columns import Wanted
from reformer_dist.data.reading.contents import record_of
from reformer_dist.data.reading.delimited import LineNumbers, entries_of
from reformer_dist.data.reading.reader import Reader
from reformer_dist.data.reading.records import Record, Records, group_of
from reformer_dist.data.reading.slices import FileSlice, not_utf8


def read_jsonl(piece: FileSlice, wanted: Wanted) -> Iterator[Record | Records]:
    """A document for each line's wanted fields; lists of strings are joined by line ends."""
    with closing(LineNumbers(piece)) as numbers:
        for offsets, lines in entries_of(piece, b"\n"):
            names = [f"{piece.file.name}#{offset}" for offset in offsets]
            plain = _plain_lines(names, lines, wanted)
            if plain is not None:
                yield plain
                continue
            for name, offset, line in zip(names, offsets, lines, strict=True):
                if line and not line.isspace():
                    record = _line_record(name, line, wanted)
                    if record.problem:
                        record.problem = f"line {numbers.of(offset):,}: {record.problem}"
                    yield record


def _plain_lines(names: list[str], lines: list[bytes], wanted: Wanted) -> Records | None:
    """The documents of many lines at once if every line is an object whose wanted fields are strings, else None."""
    keys = [column.key for column in wanted.columns]
    values = itemgetter(*keys) if wanted.split_by is None else itemgetter(*keys, wanted.split_by)
    try:
        found = [values(orjson.loads(line)) for line in lines]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    is_one = len(keys) == 1 and wanted.split_by is None
    columns = [found] if is_one else [list(column) for column in zip(*found, strict=True)]
    groups = None if wanted.split_by is None else list(map(group_of, columns.pop()))
    if not all(set(map(type, column)) <= {str} for column in columns):
        return None
    return Records(names, columns, groups)


def _line_record(name: str, line: bytes, wanted: Wanted) -> Record:
    """The document of a line, or what is wrong with it."""
    try:
        tree = _parsed(line)
    except UnicodeDecodeError as error:
        return Record(name, problem=f"the line: {not_utf8(error)}")
    except (ValueError, RecursionError) as error:
        return Record(name, problem=f"the line is no JSON: {error}")
    for column in wanted.columns:
        if not isinstance(tree, dict) or column.key not in tree:
            fields = ", ".join(map(str, tree)) if isinstance(tree, dict) else "none, it is no object"
            return Record(name, problem=f"the line has no field {column.key} ({column.setting}); its fields: {fields}")
    if wanted.split_by is not None and wanted.split_by not in tree:
        return Record(name, problem=f"the line has no field {wanted.split_by} (data.split_by)")
    group = None if wanted.split_by is None else tree[wanted.split_by]
    return record_of(name, [tree[column.key] for column in wanted.columns], wanted, group)


def _parsed(line: bytes) -> Any:
    """A line of JSON; what orjson does not take (NaN, half of a surrogate pair), the standard library may."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return json.loads(line.decode())


READER = Reader(suffixes=(".jsonl", ".ndjson"), contents=("text",), read=read_jsonl, is_sliced=True)
