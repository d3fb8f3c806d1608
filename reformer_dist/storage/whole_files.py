"""Files of this machine that are there under their name only when they are whole.

In: a path. Out: a file to write.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write beside `path`, which takes its name when the block ends well and is deleted when it does not.

    A pipe or a device, such as /dev/stdout, is written as it comes: there is nothing to replace.

    Raises:
        OSError: it cannot be written.

    """
    if path.exists() and not path.is_file() and not path.is_dir():
        with path.open("wb") as file:
            yield file
        return
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
