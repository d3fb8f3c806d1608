"""One process at a time: a file of this machine that whoever works holds, and that says who it is, or a folder."""

import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path


class Taken(Exception):
    """Somebody else holds the file; the text says who."""


@contextmanager
def alone(file: Path) -> Iterator[None]:
    """Hold a file during a block; it is made, and at the end it and its folder, if that is empty then, are removed.

    However the process ends, the file is let go.

    Raises:
        Taken: another process holds it.
    """
    descriptor = _held(file, lambda: os.open(file, os.O_RDWR | os.O_CREAT, 0o666), _refused)
    try:
        who = f"process {os.getpid()} on {socket.gethostname()} since {datetime.now():%Y-%m-%d %H:%M:%S}"
        os.ftruncate(descriptor, 0)
        os.write(descriptor, who.encode())
        yield
    finally:
        with suppress(OSError):
            file.unlink()
            file.parent.rmdir()
        os.close(descriptor)


@contextmanager
def turn(folder: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold a folder during a block, made if need be, as soon as nobody else does; it may be renamed or removed there.

    Args:
        folder: what is to be held.
        waiting: called once if another process holds it.
    """

    def opened() -> int:
        folder.mkdir(exist_ok=True)
        return os.open(folder, os.O_RDONLY)

    descriptor = _held(folder, opened, lambda descriptor: waiting())
    try:
        yield
    finally:
        os.close(descriptor)


def _held(path: Path, opened: Callable[[], int], taken: Callable[[int], None]) -> int:
    """A descriptor of what lies at a path, which this process alone holds until it is closed.

    Args:
        path: a file or folder; what it is in is made.
        opened: makes and opens it.
        taken: called with a descriptor of what another process holds; unless it raises, that process is waited for.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as unless_held:
            descriptor = opened()
            unless_held.callback(os.close, descriptor)
            _lock(descriptor, taken)
            # Whoever held it may have removed or renamed it in the meantime.
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                unless_held.pop_all()
                return descriptor


def _lock(descriptor: int, taken: Callable[[int], None]) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        taken(descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def _refused(descriptor: int) -> None:
    raise Taken(os.read(descriptor, 200).decode("utf-8", "replace") or "another process")
