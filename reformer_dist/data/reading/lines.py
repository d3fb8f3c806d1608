"""Records cut into their lines: a document of several fields in, a record for each of its lines out."""

from collections.abc import Iterable, Iterator
from typing import Any

from reformer_dist.data.reading.columns import Wanted
from reformer_dist.data.reading.kinds.text import text_of
from reformer_dist.data.reading.records import Record, Records, one_by_one


def lines_of(value: Any) -> list[Any]:
    """The lines of a column's value: the entries of a list, whatever they hold, or what line ends separate in a text.

    Raises:
        BadDocument: it is neither.
    """
    text = text_of(value)
    if isinstance(value, list):
        return value
    if isinstance(text, str):
        lines: list[Any] = [line.removesuffix("\r") for line in text.split("\n")]
    else:
        lines = [line.removesuffix(b"\r") for line in text.split(b"\n")]
    return lines if lines[-1] else lines[:-1]  # nothing follows the last line end


def cut_records(records: Iterable[Record | Records], wanted: Wanted) -> Iterator[Record]:
    """Line i of every field as a record of its own; all of a document's go where the document would, into one split."""
    for record in one_by_one(records):
        if record.problem:
            yield record
            continue
        lines = [lines_of(content) for content in record.contents]
        if len(set(map(len, lines))) > 1:
            counts = [f"{len(each):,} in {column.field}" for column, each in zip(wanted.columns, lines, strict=True)]
            problem = f"its lines are {' and '.join(counts)}; data.split_lines needs as many in every field"
            yield Record(record.name, problem=problem)
            continue
        group = record.name if record.group is None else record.group
        for number, contents in enumerate(zip(*lines, strict=True), 1):
            yield Record(f"{record.name}#{number}", contents, group)
