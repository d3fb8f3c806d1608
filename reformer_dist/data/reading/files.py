"""A stored file to read: seekable, patient with its store, decompressed where its name says so."""

import io
import os
from collections.abc import Callable
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs

from reformer_dist.storage.stores import STORE_ERRORS, one_line, open_store, patiently

Result = TypeVar("Result")
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
BUFFER_BYTES = 1 << 20


class StoreError(OSError):
    """A file that its store does not hand out, as often as it is asked; the text names it."""


def compression_of(name: str) -> str | None:
    """How a file of that name is compressed."""
    end = name[-4:].lower()
    return COMPRESSIONS.get(end) or COMPRESSIONS.get(end[-3:])


class PatientFile(io.RawIOBase):
    """A stored file, read in order or from anywhere. A read that fails is tried again on a newly opened file.

    Stores that only hand out files from their start (some web servers) are read from there to the place that is wanted.

    Raises:
        StoreError: at any read, when the store refused three times.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self._position = 0
        self._file: Any = None
        try:
            self._store = open_store(url)
        except ValueError as error:
            raise StoreError(f"data.sources: {url} cannot be read: {one_line(error)}") from None
        self.size: int | None = self._asked(self._find).size

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Whether its size is known, which `seek` needs for places counted from the end."""
        return self.size is not None

    def tell(self) -> int:
        """Where the next read begins."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Choose where the next read begins; nothing is read yet."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size or 0}[whence]
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer from here on; returns the bytes read, 0 at the end."""
        view = memoryview(buffer).cast("B")
        num_read = self._asked(lambda: self._read(view))
        self._position += num_read
        return num_read

    def close(self) -> None:
        """Give the file back."""
        if self._file is not None:
            self._file.close()
        super().close()

    def _asked(self, action: Callable[[], Result]) -> Result:
        try:
            return patiently(action)
        except STORE_ERRORS as error:
            raise StoreError(f"data.sources: {self._url} cannot be read: {one_line(error)}") from None

    def _find(self) -> pafs.FileInfo:
        info = self._store.filesystem.get_file_info(self._store.path)
        if info.type == pafs.FileType.NotFound:  # also what some web servers' refusals look like from here
            raise FileNotFoundError("not found") if self._store.is_local else OSError("not found")
        return info

    def _read(self, view: memoryview) -> int:
        try:
            if self._file is None or self._file.tell() != self._position:
                self._go_to(self._position)
            return int(self._file.readinto(view))
        except STORE_ERRORS as error:
            self._file = None  # the next attempt opens it anew
            if isinstance(error, FileNotFoundError) and not self._store.is_local:
                raise OSError("not found") from None  # it was there before
            raise

    def _go_to(self, position: int) -> None:
        filesystem, path = self._store.filesystem, self._store.path
        if self._file is None:
            self._file = (
                filesystem.open_input_stream(path, compression=None)
                if self.size is None
                else filesystem.open_input_file(path)
            )
        if self._file.seekable():
            self._file.seek(position)
            return
        if self._file.tell() > position:
            self._file = filesystem.open_input_stream(path, compression=None)
        while (left := position - self._file.tell()) and self._file.read(min(left, BUFFER_BYTES)):
            pass


def read_small(url: str, size: int) -> bytes | None:
    """All of a local file in as few calls as there can be; None for what needs more patience, or has another size."""
    if "://" in url:
        return None
    try:
        descriptor = os.open(url, os.O_RDONLY)
        try:
            content = os.read(descriptor, size + 1)
        finally:
            os.close(descriptor)
    except OSError:
        return None
    return content if len(content) == size else None


def open_bytes(url: str, compression: str | None) -> io.BufferedIOBase:
    """The bytes of a file, decompressed: seekable if it is not compressed and its store can.

    Raises:
        StoreError: now or at any read, when the store refuses.
        OSError: at a read, when the compressed data is damaged or ends too early.
    """
    file: io.RawIOBase = PatientFile(url)
    if compression is not None:
        file = _Decompressed(file, compression)
    return io.BufferedReader(file, BUFFER_BYTES)


class _Decompressed(io.RawIOBase):
    """A gzip or zstd file of any number of members."""

    def __init__(self, file: io.RawIOBase, compression: str) -> None:
        super().__init__()
        self._stream = pa.CompressedInputStream(pa.PythonFile(io.BufferedReader(file, BUFFER_BYTES), "r"), compression)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        data = self._stream.read(len(view))
        view[: len(data)] = data
        return len(data)
