"""Finding files: what `data.sources` names in, a sorted list of `SourceFile`s out. Nothing is read but listings.

A source is a file, a folder (every regular file below it, hidden ones left out), a glob, a URL of either kind, or the
word `stdlib`. A file's name is its path relative to its source's root: the folder itself, the folders before a
glob's first wildcard, or a file's parent. Names, not absolute paths, decide order, split and hash, so a corpus is the
same wherever it lies.
"""

import re
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import pyarrow.fs as pafs
from fsspec.utils import glob_translate

from reformer_dist.errors import ConfigError
from reformer_dist.storage.stores import STORE_ERRORS, Store, one_line, open_store, patiently

# Tests would double the corpus and are the least like other code; what is generated is not code that anyone wrote; the
# others are installed packages and caches.
STDLIB_SKIPPED = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "pydoc_data", "__pycache__"}
)
STDLIB_GENERATED = "_sysconfigdata"


class SourceFile(NamedTuple):
    """One file of the sources; a tuple, since there may be millions.

    Attributes:
        name: path relative to its source's root.
        url: where it is, as `open_store` takes it.
        size: bytes, or None when the store does not say.
        modified: nanoseconds since 1970, or None when the store does not say.
        found: it was found in a folder, nobody named it: it is left out if it is not what the tokenizer takes.
        source: index of its source.
    """

    name: str
    url: str
    size: int | None
    modified: int | None
    found: bool = False
    source: int = 0


def list_files(sources: Sequence[str]) -> list[SourceFile]:
    """All non-empty files that `data.sources` names, sorted by name, each once.

    Raises:
        ConfigError: a source that does not exist, cannot be listed or matches nothing, or only empty files.
    """
    found: dict[str, SourceFile] = {}
    for number, source in enumerate(sources):
        for file in _list_source(source):
            found.setdefault(file.url, file._replace(source=number) if number else file)
    files = sorted((file for file in found.values() if file.size != 0), key=lambda file: (file.name, file.source))
    if not files:
        raise ConfigError(f"data.sources = {','.join(sources)}: holds only empty files; name a file with text in it")
    return files


def _list_source(source: str) -> list[SourceFile]:
    try:
        files = patiently(lambda: list(_expand(source)))
    except (*STORE_ERRORS, ValueError) as error:
        raise ConfigError(f"data.sources = {source}: {one_line(error)}") from None
    if not files:
        raise ConfigError(f"data.sources = {source}: no files there; a file, a folder, a glob, a URL or stdlib works")
    return files


def _expand(source: str) -> Iterator[SourceFile]:
    if source == "stdlib":
        store = open_store(sysconfig.get_paths()["stdlib"])
        yield from _walk(store, store.path, _is_library_code, found=False)
        return
    store = open_store(source)
    info = store.filesystem.get_file_info(store.path)
    if info.type == pafs.FileType.Directory:
        yield from _walk(store, store.path, _is_visible, found=True)
    elif info.type == pafs.FileType.File:
        yield _file(store, info, info.base_name, found=False)
    elif re.search(r"[*?\[]", store.path):
        root = re.split(r"[*?\[]", store.path, maxsplit=1)[0].rpartition("/")[0] or "/"
        pattern = re.compile(glob_translate(store.path))
        yield from _walk(store, root, lambda name: bool(pattern.match(f"{root.rstrip('/')}/{name}")), found=False)
    else:
        # What a web server that refuses looks like from here, so it is asked again; a local folder answers at once.
        absent = FileNotFoundError if store.is_local or source.startswith("s3://") else OSError
        raise absent("no such file or folder; a file, a folder, a glob, a URL or stdlib works")


def _walk(store: Store, root: str, keep: Callable[[str], bool], *, found: bool) -> Iterator[SourceFile]:
    """Regular files below `root` whose path relative to it passes `keep`."""
    for info in store.filesystem.get_file_info(pafs.FileSelector(root, recursive=True, allow_not_found=True)):
        name = info.path.removeprefix(root).lstrip("/")
        if info.is_file and keep(name):
            yield _file(store, info, name, found=found)


def _file(store: Store, info: pafs.FileInfo, name: str, *, found: bool) -> SourceFile:
    return SourceFile(name, store.url(info.path), info.size, info.mtime_ns, found)


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and "/." not in name


def _is_library_code(name: str) -> bool:
    is_source = name.endswith(".py") and not name.startswith(STDLIB_GENERATED)
    return is_source and STDLIB_SKIPPED.isdisjoint(name.split("/"))
