"""Entries of a slice between delimiters: lines of JSON, sequences of FASTA."""

import codecs
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
