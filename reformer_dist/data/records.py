"""Documents of a slice of a file: a `FileSlice` in, `Record`s out, one at a time. Text, JSONL and FASTA are here.

Memory holds one document, or one piece of a text, whatever the file's size.
"""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from reformer_dist.config.data import DataConfig
from reformer_dist.data.files import StoreError, compression_of, open_bytes, read_small
from reformer_dist.data.formats import FileSlice
from reformer_dist.data.tokenizers import BadDocument

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
    if piece.format != "text" or piece.start or piece.stop is not None:
        return False
    size = piece.file.size
    return size is not None and size <= PIECE_BYTES and compression_of(piece.file.name) is None


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
    if piece.file.found and b"\0" in content[:BINARY_PROBE]:
        raise NotText
    yield Record(piece.file.name, content)


def _pieces(piece: FileSlice) -> Iterator[Record]:
    """The pieces of a text's slice."""
    with open_slice(piece) as stream:
        head = stream.read(BINARY_PROBE)
        if piece.file.found and b"\0" in head:
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


def read_jsonl(piece: FileSlice, data: DataConfig) -> Iterator[Record]:
    """A document for each line's field; lists of strings are joined by line ends. Named by where its line begins."""
    field = data.field_of(piece.file.source) or "text"
    for offset, line in _delimited(piece, b"\n"):
        if not line or line.isspace():
            continue
        name = f"{piece.file.name}#{offset}"
        try:
            tree = _parsed(line)
        except (ValueError, RecursionError) as error:
            yield Record(name, problem=f"the line is no JSON: {error}")
            continue
        if not isinstance(tree, dict) or field not in tree:
            fields = ", ".join(map(str, tree)) if isinstance(tree, dict) else "none, it is no object"
            yield Record(name, problem=f"the line has no field {field} (data.field); its fields: {fields}")
        elif data.split_by is not None and data.split_by not in tree:
            yield Record(name, problem=f"the line has no field {data.split_by} (data.split_by)")
        else:
            yield text_record(name, tree[field], tree.get(data.split_by) if data.split_by else None)


def read_fasta(piece: FileSlice, data: DataConfig) -> Iterator[Record]:
    """A document for each entry: its sequence, named by the first word of its header."""
    for offset, entry in _delimited(piece, b"\n>"):
        if offset == 0:
            if not entry.startswith(b">"):
                raise BadDocument("it does not begin with '>', as FASTA does; data.format = text reads it as it is")
            entry = entry[1:]
        header, _, sequence = entry.partition(b"\n")
        name = (header.split(maxsplit=1) or [b"%d" % offset])[0].decode("utf-8", "replace")
        yield Record(f"{piece.file.name}#{name}", sequence.translate(None, b" \t\r\n"))


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
    return Record(name, value, None if group is None else str(group))


def _delimited(piece: FileSlice, delimiter: bytes) -> Iterator[tuple[int, bytes]]:
    """(offset, bytes) of what lies between delimiters and begins in the slice."""
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
            for entry in entries:
                if not skipping:
                    yield offset, entry
                skipping = False
                offset += len(entry) + len(delimiter)
                if piece.stop is not None and offset >= piece.stop:
                    return
            rest = bytearray(last)
        if rest and not skipping:
            yield offset, bytes(rest)


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
