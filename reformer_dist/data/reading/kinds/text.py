"""Files of text: each is one document. A small one comes whole, others in pieces."""

import codecs
import io
from collections.abc import Iterator
from typing import Any

from reformer_dist.data.reading.columns import Wanted
from reformer_dist.data.reading.files import read_small
from reformer_dist.data.reading.reader import Reader
from reformer_dist.data.reading.records import NotText, Record
from reformer_dist.data.reading.slices import FileSlice, not_utf8, open_text
from reformer_dist.data.tokenizers.tokenizer import BadDocument

PIECE_BYTES = 1 << 20
"""Bytes of a text that are tokenised at a time; it is cut after a line where there is one."""
BINARY_PROBE = 8192
"""Leading bytes of a file in which a NUL means binary, as git has it."""
MARK = codecs.BOM_UTF8
"""May stand before a text and is none of it."""
CUT_WINDOW = 1 << 16
"""Bytes in which the cut between two slices of a text looks for the end of a line."""


def read_small_text(piece: FileSlice) -> bytes | None:
    """All of a text of at most PIECE_BYTES, which is known before it is read; None for a longer one.

    Raises:
        NotText: a binary file that was found in a folder.
        BadDocument: it is no text.
        StoreError: it cannot be read.
    """
    file = piece.file
    is_part = bool(piece.start) or piece.stop is not None
    if is_part or file.size is None or file.size > PIECE_BYTES or piece.compression is not None:
        return None
    content = None if piece.is_converted else read_small(file.url, file.size)
    if content is None:
        with open_text(piece) as stream:
            content = stream.read()
    if file.found and b"\0" in content[:BINARY_PROBE]:
        raise NotText
    return _checked(content.removeprefix(MARK), piece, len(content) - len(content.removeprefix(MARK)))


def read_text(piece: FileSlice, wanted: Wanted) -> Iterator[Record]:
    """A file as one document: a small one whole, others in pieces.

    Raises:
        NotText: at the first piece, for a binary file that was found in a folder.
        BadDocument: at the first piece that is no text.
    """
    content = read_small_text(piece)
    if content is None:
        yield from _pieces(piece)
    else:
        yield Record(piece.file.name, (content,))


def text_of(value: Any, mode: str = "") -> str | bytes:
    """A column's value as text; lists of strings are joined by line ends. Raises BadDocument for what is none."""
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        value = "\n".join(value)
    if not isinstance(value, str | bytes):
        kind = "nothing" if value is None else f"a {type(value).__name__}"
        raise BadDocument(f"its field holds {kind} instead of text")
    return value


def _checked(content: bytes, piece: FileSlice, before: int) -> bytes:
    """A text, which is known to be one; `before` bytes of the file come before it."""
    if (place := content.find(b"\0")) >= 0:
        raise BadDocument(
            f"byte {before + place:,} is NUL, which text does not hold; data.encoding = utf-16 reads two bytes a letter"
        )
    if piece.encoding == "utf-8":
        try:
            content.decode()
        except UnicodeDecodeError as error:
            raise not_utf8(error, before) from None
    return content


def _pieces(piece: FileSlice) -> Iterator[Record]:
    """The pieces of a text's slice."""
    with open_text(piece) as stream:
        head = stream.read(BINARY_PROBE)
        if piece.file.found and b"\0" in head:
            raise NotText
        rest = head.removeprefix(MARK)
        start, left, before = 0, None, len(head) - len(rest)
        if piece.start or piece.stop:
            start, rest = _line_start(stream, piece.start), b""
            left = None if piece.stop is None else _line_start(stream, piece.stop) - start
            before = start
            if start == 0:
                before = len(MARK) if head.startswith(MARK) else 0
                left = None if left is None else left - before
            stream.seek(before)
        continues = start > 0
        while block := stream.read(PIECE_BYTES if left is None else min(PIECE_BYTES, left)):
            left = None if left is None else left - len(block)
            block = rest + block
            cut = block.rfind(b"\n") + 1 or _last_character(block)
            if cut:
                yield Record(piece.file.name, (_checked(block[:cut], piece, before),), continues=continues)
                continues, before = True, before + cut
            rest = block[cut:]
        if rest:
            yield Record(piece.file.name, (_checked(rest, piece, before),), continues=continues)


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


READER = Reader(suffixes=(), contents=("text",), read=read_text, columns=(), is_sliced=True, read_small=read_small_text)
