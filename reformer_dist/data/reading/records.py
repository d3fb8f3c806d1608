"""Documents of a slice of a file: a `FileSlice` in, `Record`s out, one or many at a time. Text, JSONL and FASTA are here.

Memory holds one document, or one piece of a file, whatever the file's size.
"""

import io
import json
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate, repeat
from operator import itemgetter
from typing import Any

import orjson

from reformer_dist.config.data import DataConfig
from reformer_dist.data.reading.files import StoreError, compression_of, open_bytes, read_small
from reformer_dist.data.reading.formats import FileSlice
from reformer_dist.data.tokenizers.tokenizer import BadDocument

PIECE_BYTES = 1 << 20
"""Bytes of a text that are tokenised at a time; it is cut after a line where there is one."""
BINARY_PROBE = 8192
"""Leading bytes of a file in which a NUL means binary, as git has it."""
TEXT = (str, bytes)
CUT_WINDOW = 1 << 16
"""Bytes in which the cut between two slices of a text looks for the end of a line."""


class NotText(Exception):
    """A file that a folder holds but that is no text."""


@dataclass(slots=True)
class Record:
    """One document, or one piece of one.

    Attributes:
        name: the document's name.
        content: text (bytes or str) or an image's levels.
        group: what decides its split, None for its name.
        problem: why there is no content.
        continues: whether it goes on with the document of the record before it.
    """

    name: str
    content: Any = None
    group: str | None = None
    problem: str = ""
    continues: bool = False


@dataclass(slots=True)
class Records:
    """Many whole documents of one file, none of which has a problem yet.

    Attributes:
        names: the documents' names.
        contents: the text of each.
        groups: what decides the split of each, None for its name; None altogether where all are None.
    """

    names: list[str]
    contents: list[Any]
    groups: list[str | None] | None = None

    def __iter__(self) -> Iterator[Record]:
        for name, content, group in zip(self.names, self.contents, self.groups or repeat(None), strict=False):
            yield Record(name, content, group)


def one_by_one(records: Iterable[Record | Records]) -> Iterator[Record]:
    """The same documents, each by itself."""
    for record in records:
        yield from record if isinstance(record, Records) else [record]


def open_slice(piece: FileSlice) -> io.BufferedIOBase:
    """The (decompressed) file of a slice, not yet at its start.

    Raises:
        StoreError: it cannot be read, or is another one than was listed.
    """
    file = piece.file
    stream = open_bytes(file.url, compression_of(file.name))
    raw = getattr(stream, "raw", None)
    size = getattr(raw, "size", None)
    if size is not None and file.size is not None and size != file.size:
        raise StoreError(f"data.sources: {file.url} changed while it was being read; start again")
    return stream


def is_small_text(piece: FileSlice) -> bool:
    """Whether a slice is a whole text of at most PIECE_BYTES, which is known before it is read."""
    file, format_name, start, stop = piece
    if format_name != "text" or start or stop is not None:
        return False
    return file.size is not None and file.size <= PIECE_BYTES and compression_of(file.name) is None


def is_binary(content: bytes) -> bool:
    """Whether a file that begins so is no text."""
    return b"\0" in content[:BINARY_PROBE]


def read_text(piece: FileSlice, data: DataConfig) -> Iterator[Record]:
    """A file as one document: a small one whole, others in pieces.

    Raises:
        NotText: at the first piece, for a binary file that was found in a folder.
    """
    if not is_small_text(piece):
        yield from _pieces(piece)
        return
    content = read_small(piece.file.url, piece.file.size or 0)
    if content is None:
        with open_slice(piece) as stream:
            content = stream.read()
    if piece.file.found and is_binary(content):
        raise NotText
    yield Record(piece.file.name, content)


def _pieces(piece: FileSlice) -> Iterator[Record]:
    """The pieces of a text's slice."""
    with open_slice(piece) as stream:
        head = stream.read(BINARY_PROBE)
        if piece.file.found and is_binary(head):
            raise NotText
        start, left, rest = 0, None, head
        if piece.start or piece.stop:
            start, rest = _line_start(stream, piece.start), b""
            left = None if piece.stop is None else _line_start(stream, piece.stop) - start
            stream.seek(start)
        continues = start > 0
        while block := stream.read(PIECE_BYTES if left is None else min(PIECE_BYTES, left)):
            left = None if left is None else left - len(block)
            block = rest + block
            cut = block.rfind(b"\n") + 1 or _last_character(block)
            if cut:
                yield Record(piece.file.name, block[:cut], continues=continues)
                continues = True
            rest = block[cut:]
        if rest:
            yield Record(piece.file.name, rest, continues=continues)


def read_jsonl(piece: FileSlice, data: DataConfig) -> Iterator[Record | Records]:
    """A document for each line's field; lists of strings are joined by line ends. Named by where its line begins."""
    field = data.field_of(piece.file.source) or "text"
    for offsets, lines in _delimited(piece, b"\n"):
        names = [f"{piece.file.name}#{offset}" for offset in offsets]
        plain = _plain_lines(names, lines, field, data.split_by)
        if plain is not None:
            yield plain
            continue
        for name, line in zip(names, lines, strict=True):
            if line and not line.isspace():
                yield _line_record(name, line, field, data.split_by)


def _plain_lines(names: list[str], lines: list[bytes], field: str, split_by: str | None) -> Records | None:
    """The documents of many lines at once if every line is an object whose field is a string, else None."""
    values = itemgetter(field) if split_by is None else itemgetter(field, split_by)
    try:
        found = [values(orjson.loads(line)) for line in lines]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    contents = found if split_by is None else [content for content, _ in found]
    if not set(map(type, contents)) <= {str}:
        return None
    groups = None if split_by is None else [_group(group) for _, group in found]
    return Records(names, contents, groups)


def _line_record(name: str, line: bytes, field: str, split_by: str | None) -> Record:
    """The document of a line, or what is wrong with it."""
    try:
        tree = _parsed(line)
    except (ValueError, RecursionError) as error:
        return Record(name, problem=f"the line is no JSON: {error}")
    if not isinstance(tree, dict) or field not in tree:
        fields = ", ".join(map(str, tree)) if isinstance(tree, dict) else "none, it is no object"
        return Record(name, problem=f"the line has no field {field} (data.field); its fields: {fields}")
    if split_by is not None and split_by not in tree:
        return Record(name, problem=f"the line has no field {split_by} (data.split_by)")
    return text_record(name, tree[field], tree.get(split_by) if split_by else None)


def read_fasta(piece: FileSlice, data: DataConfig) -> Iterator[Records]:
    """A document for each entry: its sequence, named by the first word of its header."""
    for offsets, entries in _delimited(piece, b"\n>"):
        if offsets[0] == 0:
            if not entries[0].startswith(b">"):
                raise BadDocument("it does not begin with '>', as FASTA does; data.format = text reads it as it is")
            entries[0] = entries[0][1:]
        names, sequences = [], []
        for offset, entry in zip(offsets, entries, strict=True):
            header, _, sequence = entry.partition(b"\n")
            name = (header.split(maxsplit=1) or [b"%d" % offset])[0].decode("utf-8", "replace")
            names.append(f"{piece.file.name}#{name}")
            sequences.append(sequence.translate(None, b" \t\r\n"))
        yield Records(names, sequences)


def _parsed(line: bytes) -> Any:
    """A line of JSON; what orjson does not take (NaN, half of a surrogate pair), the standard library may."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return json.loads(line.decode())


def text_record(name: str, value: Any, group: Any) -> Record:
    """A record of a field that should hold text."""
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        value = "\n".join(value)
    if not isinstance(value, TEXT):
        kind = "nothing" if value is None else f"a {type(value).__name__}"
        return Record(name, problem=f"its field holds {kind} instead of text")
    return Record(name, value, _group(group))


def _group(value: Any) -> str | None:
    return None if value is None else str(value)


def _delimited(piece: FileSlice, delimiter: bytes) -> Iterator[tuple[list[int], list[bytes]]]:
    """What lies between delimiters and begins in the slice, about PIECE_BYTES at a time: (offsets, bytes), never empty."""
    with open_slice(piece) as stream:
        offset = max(piece.start - len(delimiter), 0)
        if offset:
            stream.seek(offset)
        rest = bytearray()  # what follows the last delimiter
        skipping = piece.start > 0  # until the first delimiter that ends in the slice
        while block := stream.read(PIECE_BYTES):
            searched = max(len(rest) - len(delimiter) + 1, 0)
            rest += block
            if rest.find(delimiter, searched) < 0:
                continue
            *entries, last = bytes(rest).split(delimiter)
            ends = list(accumulate((len(entry) + len(delimiter) for entry in entries), initial=offset))
            rest, offset = bytearray(last), ends[-1]
            begin = 1 if skipping else 0
            end = len(entries) if piece.stop is None else bisect_left(ends, piece.stop, 0, len(entries))
            skipping = False
            if begin < end:
                yield ends[begin:end], entries[begin:end]
            if piece.stop is not None and offset >= piece.stop:
                return
        if rest and not skipping:
            yield [offset], [bytes(rest)]


def _line_start(stream: io.BufferedIOBase, at: int) -> int:
    """Where the first line at or after `at` begins; if there is none nearby, the first character."""
    if at == 0:
        return 0
    stream.seek(at - 1)
    window = stream.read(CUT_WINDOW)
    if (found := window.find(b"\n")) >= 0:
        return at + found
    return at + next((i for i, byte in enumerate(window[1:5]) if byte & 0xC0 != 0x80), 0)


def _last_character(block: bytes) -> int:
    """Where the last UTF-8 character of a block begins, so that what is before it is whole; its end if it has none."""
    return next((len(block) - i for i in range(1, min(4, len(block)) + 1) if block[-i] & 0xC0 != 0x80), len(block))
