"""A slice of a file: what one task reads of it, and how to get at its text."""

import codecs
import io
from typing import NamedTuple

from reformer_dist.config.sections.data import FormatName
from reformer_dist.data.reading.files import BUFFER_BYTES, StoreError, open_bytes
from reformer_dist.data.reading.finding.sources import SourceFile
from reformer_dist.data.tokenizers.tokenizer import BadDocument

RAW = "raw"
"""The encoding of text that is taken as it is."""


class FileSlice(NamedTuple):
    """What one task reads of a file: the documents that begin in its bytes `start` to `stop`.

    Attributes:
        file: the file.
        format: what it is.
        start: first byte.
        stop: byte after the last, None for the end.
        compression: how it is compressed: gzip, zstd, bz2, xz.
        encoding: what its text is written in, as Python names it, or raw: taken as it is.
        errors: what becomes of bytes that are none of the encoding: strict, replace, ignore.
        siblings: files that hold other columns of its records, whole.
    """

    file: SourceFile
    format: FormatName
    start: int = 0
    stop: int | None = None
    compression: str | None = None
    encoding: str = "utf-8"
    errors: str = "strict"
    siblings: tuple["FileSlice", ...] = ()

    @property
    def is_converted(self) -> bool:
        """Whether its text becomes UTF-8 while it is read, so that bytes of the file are not those of the text."""
        return (self.encoding, self.errors) != ("utf-8", "strict") and self.encoding != RAW


def open_slice(piece: FileSlice) -> io.BufferedIOBase:
    """The file of a slice, decompressed, not yet at its start.

    Raises:
        StoreError: it cannot be read, or is another one than was listed.
    """
    file = piece.file
    stream = open_bytes(file.url, piece.compression)
    raw = getattr(stream, "raw", None)
    size = getattr(raw, "size", None)
    if size is not None and file.size is not None and size != file.size:
        raise StoreError(f"data.sources: {file.url} changed while it was being read; start again")
    return stream


def open_text(piece: FileSlice) -> io.BufferedIOBase:
    """The same as UTF-8, where the slice's encoding is another."""
    stream = open_slice(piece)
    return io.BufferedReader(_Converted(stream, piece), BUFFER_BYTES) if piece.is_converted else stream


def not_utf8(error: UnicodeDecodeError, before: int = 0) -> BadDocument:
    """What to say of text that is no UTF-8; `before` bytes of the file come before what was decoded."""
    place, byte = before + error.start, error.object[error.start]
    return BadDocument(
        f"byte {place:,} (0x{byte:02x}) is no UTF-8; data.encoding says what it is (latin-1, cp1252, utf-16, or raw for"
        " bytes as they are), data.errors = replace reads on"
    )


class _Converted(io.RawIOBase):
    """A text in another encoding, read as UTF-8."""

    def __init__(self, stream: io.BufferedIOBase, piece: FileSlice) -> None:
        super().__init__()
        self._stream, self._encoding, self._errors = stream, piece.encoding, piece.errors
        self._decoder = codecs.getincrementaldecoder(piece.encoding)(piece.errors)
        self._rest, self._num_read = b"", 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._rest:
            block = self._stream.read(BUFFER_BYTES)
            try:
                text = self._decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                place = max(0, self._num_read + len(block) - len(error.object)) + error.start
                raise BadDocument(
                    f"byte {place:,} is no {self._encoding} ({error.reason}); data.encoding says what it is,"
                    " data.errors = replace reads on"
                ) from None
            self._num_read += len(block)
            if self._errors != "strict":  # NUL is in every encoding, and in no text
                text = text.replace("\0", "\ufffd" if self._errors == "replace" else "")
            self._rest = text.encode("utf-8", "replace")
            if not block:
                break
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size

    def close(self) -> None:
        self._stream.close()
        super().close()
