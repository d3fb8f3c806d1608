"""Entries of a slice between delimiters: lines of JSON, sequences of FASTA; and which line it is that is wrong."""

import codecs
import io
from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

from reformer_dist.data.reading.slices import FileSlice, open_text

BLOCK_BYTES = 1 << 20
"""Bytes that are read and split at a time."""


def entries_of(piece: FileSlice, delimiter: bytes) -> Iterator[tuple[list[int], list[bytes]]]:
    """What lies between delimiters and begins in the slice, about BLOCK_BYTES at a time: (offsets, bytes), never empty."""
    with open_text(piece) as stream:
        offset = max(piece.start - len(delimiter), 0)
        if offset:
            stream.seek(offset)
        rest = bytearray()  # what follows the last delimiter
        skipping = piece.start > 0  # until the first delimiter that ends in the slice
        while block := stream.read(BLOCK_BYTES):
            searched = max(len(rest) - len(delimiter) + 1, 0)
            rest += block
            if rest.find(delimiter, searched) < 0:
                continue
            *entries, last = bytes(rest).split(delimiter)
            ends = list(accumulate((len(entry) + len(delimiter) for entry in entries), initial=offset))
            rest, offset = bytearray(last), ends[-1]
            begin = 1 if skipping else 0
            end = len(entries) if piece.stop is None else bisect_left(ends, piece.stop, 0, len(entries))
            if ends[0] == 0 and begin == 0:
                entries[0] = entries[0].removeprefix(codecs.BOM_UTF8)
            skipping = False
            if begin < end:
                yield ends[begin:end], entries[begin:end]
            if piece.stop is not None and offset >= piece.stop:
                return
        if rest and not skipping:
            yield [offset], [bytes(rest).removeprefix(codecs.BOM_UTF8) if offset == 0 else bytes(rest)]


class LineNumbers:
    """Numbers of a file's lines by where they begin, counted only when asked: what comes before is read for it.

    Args:
        piece: a slice of the file; the lines before it count too.
    """

    def __init__(self, piece: FileSlice) -> None:
        self._piece = piece
        self._stream: io.BufferedIOBase | None = None
        self._offset, self._number = 0, 1

    def of(self, offset: int) -> int:
        """Number, from 1, of the line that begins at a byte of the text, not before the one asked for last."""
        self._stream = self._stream or open_text(self._piece)
        while self._offset < offset and (block := self._stream.read(min(BLOCK_BYTES, offset - self._offset))):
            self._offset += len(block)
            self._number += block.count(b"\n")
        return self._number

    def close(self) -> None:
        """Let the file go."""
        if self._stream is not None:
            self._stream.close()
