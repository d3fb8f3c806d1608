"""Finding files: what `data.sources` names in, a sorted list of `SourceFile`s out. Nothing is read but listings.

A source is a file, a folder (every regular file below it), a glob, a URL of either kind, or the word `stdlib`. What nobody
means as data stays out of folders and globs and is counted: hidden files, editors' backups, locks, and what a data set's
folder says about itself. A file's name is its path relative to its source's root: the folder itself, the folders before a
glob's first wildcard, or a file's parent. Names, not absolute paths, decide order, split and hash, so a corpus is the same
wherever it lies.
"""

import os
import re
import sysconfig
from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import pyarrow.fs as pafs
from fsspec.utils import glob_translate

from reformer_dist.data.reading.finding.chaff import TABLES, Left, is_about_tables, is_chaff, is_hidden
from reformer_dist.data.reading.finding.walking import Keep, walk_folder
from reformer_dist.errors import ConfigError
from reformer_dist.storage.stores import STORE_ERRORS, Store, local_url, one_line, open_store, patiently, readable

# Tests would double the corpus and are the least like other code; what is generated is not code that anyone wrote; the
# others are installed packages and caches.
STDLIB_SKIPPED = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "pydoc_data", "__pycache__"}
)
STDLIB_GENERATED = "_sysconfigdata"
HIDDEN, CHAFF = "hidden files and folders", "backups, locks and files about files"
"""Reasons to leave a file."""
_WILDCARDS = re.compile(r"[*?\[]")


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


class Listing(NamedTuple):
    """What sources hold.

    Attributes:
        files: what is to be read, sorted by name, each once.
        left: what was seen and is not read, by reason.
        siblings: for the URL of each file whose records go on in files beside it, those.
    """

    files: list[SourceFile]
    left: Left
    siblings: Mapping[str, tuple[SourceFile, ...]] = MappingProxyType({})


Seen = tuple[Hashable, SourceFile]
"""What makes a file the same as another (its place on its disk, or its URL), and the file."""


def list_files(sources: Sequence[str]) -> list[SourceFile]:
    """The files of `list_sources`."""
    return list_sources(sources).files


def list_sources(sources: Sequence[str]) -> Listing:
    """All non-empty files that `data.sources` names, sorted by name, each real file once.

    Raises:
        ConfigError: a source that does not exist, cannot be listed or matches nothing, or only empty files.
    """
    found: dict[Hashable, SourceFile] = {}
    left = Left()
    for number, source in enumerate(sources):
        for identity, file in _list_source(source, left):
            if found.setdefault(identity, file._replace(source=number) if number else file).url != file.url:
                left.add("the same file by another name", file.name)
    files = []
    for file in sorted(found.values(), key=lambda file: (file.name, file.source)):
        if file.size == 0:
            left.add("empty files", file.name)
        else:
            files.append(file)
    if not files:
        raise ConfigError(f"data.sources = {','.join(sources)}: holds only empty files; name a file with text in it")
    return Listing(files, left)


def file_at(url: str) -> SourceFile | None:
    """The file at a path or URL; None where there is none.

    Raises:
        ConfigError: the store does not say.
    """
    try:
        store = open_store(url)
        is_file = patiently(lambda: _kind_of(store)) == pafs.FileType.File
        return patiently(lambda: _named(store))[1] if is_file else None
    except (*STORE_ERRORS, ValueError) as error:
        raise ConfigError(f"data.sources = {url}: {one_line(error)}") from None


def _list_source(source: str, left: Left) -> list[Seen]:
    try:
        files = patiently(lambda: list(_expand(source, left)))
    except (*STORE_ERRORS, ValueError) as error:
        raise ConfigError(f"data.sources = {source}: {one_line(error)}") from None
    if not files:
        rest = f" but {left}" if left else ""
        raise ConfigError(
            f"data.sources = {source}: no files there{rest}; a file, a folder, a glob, a URL or stdlib works"
        )
    return files


def _expand(source: str, left: Left) -> Iterator[Seen]:
    if source == "stdlib":
        store = open_store(sysconfig.get_paths()["stdlib"])
        yield from _walk(store, store.path, _is_library_code, left, found=False)
        return
    store = open_store(source)
    kind = _kind_of(store)
    if kind == pafs.FileType.Directory:
        files = list(_walk(store, store.path, partial(_is_meant, left), left, found=True))
        yield from _without_what_is_about_tables(files, left)
    elif kind == pafs.FileType.File:
        yield _named(store)
    elif wildcard := _WILDCARDS.search(store.path):
        root = store.path[: wildcard.start()].rpartition("/")[0] or "/"
        yield from _walk(store, root, _matching(store.path, root, left), left, found=False)
    else:
        # What a web server that refuses looks like from here, so it is asked again; a local folder answers at once.
        absent = FileNotFoundError if store.is_local or source.startswith("s3://") else OSError
        raise absent("no such file or folder; a file, a folder, a glob, a URL or stdlib works")


def _kind_of(store: Store) -> pafs.FileType:
    if store.is_local:  # where a name may be no UTF-8
        is_folder, is_file = os.path.isdir(store.path), os.path.isfile(store.path)
        return pafs.FileType.Directory if is_folder else pafs.FileType.File if is_file else pafs.FileType.NotFound
    return store.filesystem.get_file_info(store.path).type


def _named(store: Store) -> Seen:
    """A file that somebody named."""
    if store.is_local:
        return _local(os.path.basename(store.path), store.path, os.stat(store.path), found=False)
    info = store.filesystem.get_file_info(store.path)
    url = store.url(info.path)
    return url, SourceFile(info.base_name, url, info.size, info.mtime_ns)


def _walk(store: Store, root: str, keep: Keep, left: Left, *, found: bool) -> Iterator[Seen]:
    """Regular files below `root` whose path relative to it passes `keep`."""
    if store.is_local:
        for name, path, status in walk_folder(root, keep, left):
            yield _local(name, path, status, found=found)
        return
    entered = {"": True}
    for info in store.filesystem.get_file_info(pafs.FileSelector(root, recursive=True, allow_not_found=True)):
        name = info.path.removeprefix(root).lstrip("/")
        if info.is_file and _is_entered(name, keep, entered) and keep(name):
            url = store.url(info.path)
            yield url, SourceFile(name, url, info.size, info.mtime_ns, found)


def _is_entered(name: str, keep: Keep, entered: dict[str, bool]) -> bool:
    """Whether all folders that a file lies in are kept; `entered` remembers those that were asked for."""
    folder = name.rpartition("/")[0]
    if folder not in entered:
        entered[folder] = _is_entered(folder, keep, entered) and keep(f"{folder}/")
    return entered[folder]


def _local(name: str, path: str, status: os.stat_result, *, found: bool) -> Seen:
    file = SourceFile(readable(name), local_url(path), status.st_size, status.st_mtime_ns, found)
    return (status.st_dev, status.st_ino), file


def _is_meant(left: Left, name: str) -> bool:
    """Whether what a folder holds may be data; what is not is counted."""
    reason = HIDDEN if is_hidden(name) else CHAFF if is_chaff(name) else ""
    if reason:
        left.add(reason, readable(name))
    return not reason


def _matching(pattern: str, root: str, left: Left) -> Keep:
    """What a glob keeps: what matches it, hidden files and chaff only where its own parts begin or end so."""
    expression = re.compile(glob_translate(pattern))
    wants_hidden = any(part.startswith(".") for part in pattern.removeprefix(root).split("/"))
    wants_chaff = is_chaff(_WILDCARDS.split(pattern)[-1] or "x")

    def keep(name: str) -> bool:
        if not name.endswith("/") and not expression.match(f"{root.rstrip('/')}/{readable(name)}"):
            return False
        reason = HIDDEN if is_hidden(name) and not wants_hidden else CHAFF if is_chaff(name) and not wants_chaff else ""
        if reason:
            left.add(reason, readable(name))
        return not reason

    return keep


def _without_what_is_about_tables(files: Sequence[Seen], left: Left) -> Iterator[Seen]:
    """The files of a folder; where it holds tables, without what is said about them."""
    has_tables = any(file.name.lower().endswith(TABLES) for _, file in files)
    for identity, file in files:
        if has_tables and is_about_tables(file.name):
            left.add("files about the tables beside them", file.name)
        else:
            yield identity, file


def _is_library_code(name: str) -> bool:
    if name.endswith("/"):
        return STDLIB_SKIPPED.isdisjoint(name.split("/"))
    return name.endswith(".py") and not name.startswith(STDLIB_GENERATED) and not is_hidden(name)
