"""A folder of this machine, walked so that links make no copies: what lies there itself comes before what links lead to."""

import os
import stat
from collections import deque
from collections.abc import Callable, Iterator

from reformer_dist.data.reading.finding.chaff import Left

Keep = Callable[[str], bool]
"""Whether a path relative to the root is kept; a folder's ends in "/", and it is not entered otherwise."""
Found = tuple[str, str, os.stat_result]
"""A regular file's path relative to the root, its path, and what the disk says of it."""


def walk_folder(root: str, keep: Keep, left: Left) -> Iterator[Found]:
    """Regular files below `root` that `keep` keeps.

    A folder is entered once: a link to one that was entered before, as to its own parent, leads nowhere. Names that are no
    UTF-8 are as `os.fsdecode` gives them.

    Raises:
        OSError: a folder that cannot be listed.
    """
    entered: set[tuple[int, int]] = set()
    folders = deque([("", root)])
    links: deque[tuple[str, str]] = deque()
    while folders or links:
        if folders:
            prefix, folder = folders.popleft()
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in entered:
                left.add("links to folders that are read already", prefix)
                continue
            entered.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                inside = sorted(entries, key=lambda entry: entry.name)
            for entry in inside:
                name = prefix + entry.name
                if entry.is_symlink():
                    links.append((name, entry.path))
                elif entry.is_dir(follow_symlinks=False):
                    if keep(f"{name}/"):
                        folders.append((f"{name}/", entry.path))
                elif not entry.is_file(follow_symlinks=False):
                    left.add("pipes, sockets and devices", name)
                elif keep(name):
                    yield name, entry.path, entry.stat(follow_symlinks=False)
            continue
        name, path = links.popleft()
        try:
            status = os.stat(path)
        except OSError:  # it leads nowhere, or to itself
            left.add("links that lead nowhere", name)
            continue
        if stat.S_ISDIR(status.st_mode):
            if keep(f"{name}/"):
                folders.append((f"{name}/", path))
        elif stat.S_ISREG(status.st_mode) and keep(name):
            yield name, path, status
