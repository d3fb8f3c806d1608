"""A stored file to read: seekable, patient with its store, decompressed where it is compressed."""

import bz2
import gzip
import io
import lzma
import os
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs

from reformer_dist.storage.stores import STORE_ERRORS, one_line, open_store, patiently

Result = TypeVar("Result")
BUFFER_BYTES = 1 << 20


class StoreError(OSError):
    """A file that its store does not hand out, as often as it is asked; the text names it."""


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
        self.size: int | None = self._asked(self._find)

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

    def _find(self) -> int | None:
        """Its size, None if its store does not say."""
        if self._store.is_local:
            return os.stat(self._store.path).st_size
        info = self._store.filesystem.get_file_info(self._store.path)
        if info.type == pafs.FileType.NotFound:  # also what some web servers' refusals look like from here
            raise OSError("not found")
        size: int | None = info.size
        return size

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
        if self._file is None and self._store.is_local:  # whose name may be no UTF-8, which pyarrow does not open
            self._file = io.FileIO(path)
        elif self._file is None and self.size is None:
            self._file = filesystem.open_input_stream(path, compression=None)
        elif self._file is None:
            self._file = filesystem.open_input_file(path)
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


def read_head(url: str, size: int, compression: str | None = None) -> bytes:
    """The first bytes of a file, decompressed; fewer if it ends before.

    Raises:
        StoreError: it cannot be read.
        OSError: it cannot be decompressed.
    """
    if compression is None and "://" not in url:
        with suppress(OSError):
            descriptor = os.open(url, os.O_RDONLY)
            try:
                return os.read(descriptor, size)
            finally:
                os.close(descriptor)
    with open_bytes(url, compression) as stream:
        return stream.read(size)


def open_bytes(url: str, compression: str | None) -> io.BufferedIOBase:
    """The bytes of a file, decompressed: seekable if it is not compressed and its store can.

    Raises:
        StoreError: now or at any read, when the store refuses.
        OSError: at a read, when the compressed data is damaged or ends too early.
    """
    file = io.BufferedReader(PatientFile(url), BUFFER_BYTES)
    if compression is None:
        return file
    if compression == "zstd":
        return io.BufferedReader(_Zstd(file), BUFFER_BYTES)
    opened: Any = _STANDARD[compression](file)
    return io.BufferedReader(_Whole(opened, file), BUFFER_BYTES)


_STANDARD: dict[str, Callable[[Any], Any]] = {
    "gzip": lambda file: gzip.GzipFile(fileobj=file),
    "bz2": bz2.BZ2File,
    "xz": lzma.LZMAFile,
}
"""What decompresses streams of any number of members, zeros after them left out."""


class _Whole(io.RawIOBase):
    """A decompressed file; what its library raises where the data is damaged becomes an OSError."""

    def __init__(self, opened: Any, file: io.BufferedIOBase) -> None:
        super().__init__()
        self._opened, self._file = opened, file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            return int(self._opened.readinto(buffer))
        except (lzma.LZMAError, zlib.error, EOFError) as error:
            raise OSError(str(error)) from None

    def close(self) -> None:
        self._opened.close()
        self._file.close()
        super().close()


class _Zstd(io.RawIOBase):
    """A zstd file of any number of frames."""

    def __init__(self, file: io.BufferedIOBase) -> None:
        super().__init__()
        self._stream = pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        try:
            data = self._stream.read(len(view))
        except OSError as error:
            if "memory" in str(error):  # zstd --ultra --long=31
                raise OSError("its zstd window is larger than 128 MiB; zstd --long=27 makes one that is read") from None
            raise
        view[: len(data)] = data
        return len(data)
