"""Where files lie: a local path or any URL becomes a pyarrow filesystem and the path on it.

Local paths, file://, s3://, gs:// and hdfs:// go to pyarrow's own filesystems; everything else (http://, https://,
memory://, ...) through fsspec.
"""

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import fsspec
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import xxhash

NATIVE_SCHEMES = ("file", "s3", "gs", "gcs", "hdfs", "viewfs")
BUCKET_SCHEMES = ("s3", "gs", "gcs")
Result = TypeVar("Result")
STORE_ERRORS = (OSError, pa.ArrowException, aiohttp.ClientError)
"""What stores raise when they do not answer as they should."""
WAITS = (0.5, 2.0)
"""Seconds before a second and a third attempt at what a store refused."""


@dataclass(frozen=True)
class Store:
    """A place on a filesystem.

    Attributes:
        filesystem: the pyarrow filesystem.
        path: the place's path on it.
        url: turns any path on this filesystem back into what `open_store` takes.
    """

    filesystem: pafs.FileSystem
    path: str
    url: Callable[[str], str]

    @property
    def is_local(self) -> bool:
        """Whether this is a folder or file of this machine, where renaming is atomic."""
        return isinstance(self.filesystem, pafs.LocalFileSystem)

    def child(self, name: str) -> str:
        """Path of `name` inside this place."""
        return f"{self.path.rstrip('/')}/{name}"


def open_store(url: str) -> Store:
    """Find the filesystem of a local path or URL; nothing is read or made.

    Raises:
        ValueError: an unknown scheme, or one whose library is not installed; the message says which.
    """
    scheme, separator, _ = url.partition("://")
    if not separator:
        return Store(pafs.LocalFileSystem(), str(Path(url).expanduser().absolute()), lambda path: path)
    if scheme in NATIVE_SCHEMES:
        place, mark, options = url.partition("?")
        user = ""
        try:
            if scheme in BUCKET_SCHEMES:
                bucket, slash, key = place.partition("://")[2].partition("/")
                filesystem = _bucket(f"{scheme}://{bucket}{mark}{options}")
                *users, bucket = bucket.rpartition("@")
                user, path = "".join(users), f"{bucket}{slash}{key}"
            else:
                filesystem, path = pafs.FileSystem.from_uri(url)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(one_line(error)) from None
        if scheme == "file":
            return Store(filesystem, path, lambda path: path)
        return Store(filesystem, path, lambda path: f"{scheme}://{user}{path}{mark}{options}")
    try:
        remote, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise ValueError(one_line(error)) from None
    return Store(pafs.PyFileSystem(pafs.FSSpecHandler(remote)), path, remote.unstrip_protocol)


@lru_cache(8)
def _bucket(url: str) -> pafs.FileSystem:
    """The filesystem of a bucket; making one may ask the store where the bucket lies, so it is kept."""
    return pafs.FileSystem.from_uri(url)[0]


def one_line(error: BaseException) -> str:
    """The first line of an exception's text, without the library's own prefixes and detail."""
    lines = str(error).strip().splitlines()
    text = lines[0].split(" Detail: ")[0].rstrip(". ") if lines else type(error).__name__
    reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else ""
    return text if reason in text else f"{text}: {reason}"


def patiently(action: Callable[[], Result]) -> Result:
    """The action's result; what a store raises is answered by trying again, twice, before it is raised here.

    What will not change is raised at once: a file that is not there, a right that is missing, a disk that is full.
    """
    for wait in (*WAITS, None):
        try:
            return action()
        except (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError):
            raise
        except STORE_ERRORS as error:
            if wait is None or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                raise
            time.sleep(wait)
    raise AssertionError("the last attempt returns or raises")


@contextmanager
def naming(store: Store, name: str) -> Iterator[None]:
    """Turns what reading a corpus's file raises inside the block into an OSError that names the file."""
    try:
        yield
    except STORE_ERRORS as error:
        raise OSError(f"prepared corpus: {store.child(name)} cannot be read: {one_line(error)}") from error


def not_written(store: Store, name: str, error: BaseException) -> str:
    """The line that says that a file of a corpus cannot be written."""
    return f"train.storage: {store.child(name)} cannot be written: {one_line(error)}"


class HashingFile:
    """A writable file that knows the size and the xxh3-128 of what went through it."""

    def __init__(self, store: Store, name: str) -> None:
        self._stream = store.filesystem.open_output_stream(store.child(name), compression=None)
        self._digest = xxhash.xxh3_128()
        self.size = 0

    def write(self, data: Any) -> int:
        """Write a bytes-like object."""
        view = memoryview(data)
        self._stream.write(view)
        self._digest.update(view)
        self.size += view.nbytes
        return view.nbytes

    def tell(self) -> int:
        """Bytes written so far."""
        return self.size

    def flush(self) -> None:
        """Hand what is buffered to the filesystem."""
        self._stream.flush()

    def close(self) -> None:
        """Finish the file; on an object store it exists only from here on."""
        self._stream.close()

    def __enter__(self) -> "HashingFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return bool(self._stream.closed)

    @property
    def hexdigest(self) -> str:
        """xxh3-128 of the bytes written so far."""
        return self._digest.hexdigest()


@contextmanager
def new_file(store: Store, name: str) -> Iterator[HashingFile]:
    """A file of a corpus to write; what its store raises inside the block becomes an OSError that names the file."""
    try:
        with HashingFile(store, name) as file:
            yield file
    except STORE_ERRORS as error:
        raise OSError(not_written(store, name, error)) from error


def hash_file(store: Store, name: str) -> str:
    """The xxh3-128 of a stored file, read in pieces of 4 MiB."""
    digest = xxhash.xxh3_128()
    with store.filesystem.open_input_stream(store.child(name), compression=None) as stream:
        while piece := stream.read(1 << 22):
            digest.update(piece)
    return digest.hexdigest()


def parquet_writer(file: HashingFile, schema: pa.Schema, *, store_schema: bool = False) -> pq.ParquetWriter:
    """A zstd Parquet writer whose pages carry checksums and whose bytes depend on the rows alone.

    Args:
        file: where it writes.
        schema: of the tables.
        store_schema: keep the schema's metadata in the file.
    """
    return pq.ParquetWriter(
        pa.PythonFile(file, mode="w"),
        schema,
        compression="zstd",
        use_dictionary=False,
        write_statistics=False,
        write_page_checksum=True,
        store_schema=store_schema,
    )
