"""Files whose size and hash are known: written so, and compared with what was written."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow.fs as pafs
import xxhash
from pydantic import BaseModel, ConfigDict

from reformer_dist.storage.stores import STORE_ERRORS, Store, not_written


class StoredFile(BaseModel):
    """A file as it was written: its name in the folder, size in bytes and xxh3-128 of its bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    size: int
    xxh3: str


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
    """The xxh3-128 of a stored file, read 4 MiB at a time."""
    digest = xxhash.xxh3_128()
    with store.filesystem.open_input_stream(store.child(name), compression=None) as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def find_damage(store: Store, files: Sequence[StoredFile]) -> str:
    """The first of a folder's files that is not as it was written, and what it is instead; empty if all are whole.

    Sizes are compared before any file is read.
    """
    infos = store.filesystem.get_file_info([store.child(file.name) for file in files])
    for file, info in zip(files, infos, strict=True):
        if info.type != pafs.FileType.File:
            return f"{file.name} is missing"
        if info.size != file.size:
            return f"{file.name} has {info.size} bytes where the manifest says {file.size}"
    for file in files:
        if hash_file(store, file.name) != file.xxh3:
            return f"{file.name} does not have the hash that the manifest says"
    return ""
