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
from typing import TypeVar
from urllib.parse import quote, unquote_to_bytes

import aiohttp
import fsspec
import pyarrow as pa
import pyarrow.fs as pafs

NATIVE_SCHEMES = ("s3", "gs", "gcs", "hdfs", "viewfs")
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
    scheme, separator, rest = url.partition("://")
    if scheme == "file":
        return Store(pafs.LocalFileSystem(), os.fsdecode(unquote_to_bytes(rest)), local_url)
    if not separator:
        return Store(pafs.LocalFileSystem(), str(Path(url).expanduser().absolute()), local_url)
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
        return Store(filesystem, path, lambda path: f"{scheme}://{user}{path}{mark}{options}")
    try:
        remote, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise ValueError(one_line(error)) from None
    return Store(pafs.PyFileSystem(pafs.FSSpecHandler(remote)), path, remote.unstrip_protocol)


def below(url: str, name: str) -> str:
    """Path or URL of `name` in the folder at another, whose options (`s3://bucket/runs?region=...`) stay at the end."""
    place, options = _place_and_options(url)
    return f"{place.rstrip('/')}/{name}{options}"


def parted(url: str) -> tuple[str, str]:
    """The folder that something lies in, with the URL's options if it has some, and its name there; `below` undone."""
    place, options = _place_and_options(url)
    folder, _, name = place.rpartition("/")
    return f"{folder}{options}", name


def is_below(path: str, folder: str) -> bool:
    """Whether one path or URL lies in the folder at another."""
    return path.startswith(f"{_place_and_options(folder)[0].rstrip('/')}/")


def _place_and_options(url: str) -> tuple[str, str]:
    """What is before the question mark of a URL, and the rest; a path of this machine has no such rest."""
    place, mark, options = url.partition("?") if "://" in url else (url, "", "")
    return place, f"{mark}{options}"


def local_url(path: str) -> str:
    """What `open_store` takes for a path of this machine: the path, or where that is no UTF-8 a file:// URL."""
    return path if readable(path) == path else f"file://{quote(os.fsencode(path))}"


def readable(path: str) -> str:
    r"""A path as it can be printed and stored: a byte that is no UTF-8 is written as \xe9."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


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
