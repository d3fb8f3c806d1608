"""A slice of a file: what one task reads of it."""

import io
from typing import NamedTuple

from reformer_dist.config.sections.data import FormatName
from reformer_dist.data.reading.files import StoreError, compression_of, open_bytes
from reformer_dist.data.reading.sources import SourceFile


class FileSlice(NamedTuple):
    """What one task reads of a file: the documents that begin in its bytes `start` to `stop`.

    Attributes:
        file: the file.
        format: what it is.
        start: first byte.
        stop: byte after the last, None for the end.
    """

    file: SourceFile
    format: FormatName
    start: int = 0
    stop: int | None = None


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
