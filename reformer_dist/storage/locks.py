"""One process at a time: a file of this machine that whoever works holds, and that says who it is."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
    descriptor = _held(file)
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


def _held(file: Path) -> int:
    """An open file that this process alone holds, and that lies at that path."""
    while True:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = os.read(descriptor, 200).decode("utf-8", "replace") or "another process"
            os.close(descriptor)
            raise Taken(who) from None
        # Whoever held it may have removed it in the meantime.
        if file.exists() and os.path.samestat(os.fstat(descriptor), file.stat()):
            return descriptor
        os.close(descriptor)
