"""Finding documents: what `data.sources` names in, a sorted list of `Document`s out. Nothing is read but listings.

A source is a file, a folder (every regular file below it, hidden ones left out), a glob, a URL of either kind, or the
word `stdlib`. A document's name is its path relative to its source's root: the folder itself, the folders before a
glob's first wildcard, or a file's parent. Names, not absolute paths, decide order, split and hash, so a corpus is the
same wherever it lies.
"""

import re
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.fs as pafs
from fsspec.utils import glob_translate

from reformer_dist.config import ConfigError
from reformer_dist.data.stores import Store, one_line, open_store

# Tests would double the corpus and are the least like other code; what is generated is not code that anyone wrote; the
# others are installed packages and caches.
STDLIB_SKIPPED = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "pydoc_data", "__pycache__"}
)
STDLIB_GENERATED = "_sysconfigdata"


@dataclass(frozen=True)
class Document:
    """One document of the corpus.

    Attributes:
        name: path relative to its source's root.
        url: where it is, as `open_store` takes it.
        size: bytes, or None when the store does not say.
        modified: nanoseconds since 1970, or None when the store does not say.
        skip_binary: leave it out if it holds binary data: it was found in a folder, nobody named it.
    """

    name: str
    url: str
    size: int | None
    modified: int | None
    skip_binary: bool = False


def list_documents(sources: Sequence[str]) -> list[Document]:
    """All non-empty documents that `data.sources` names, sorted by name, each file once.

    Raises:
        ConfigError: a source that does not exist, cannot be listed or matches nothing, or only empty files.
    """
    found: dict[str, tuple[int, Document]] = {}
    for number, source in enumerate(sources):
        for document in _list_source(source):
            found.setdefault(document.url, (number, document))
    by_name = sorted(found.values(), key=lambda entry: (entry[1].name, entry[0]))
    documents = [document for _, document in by_name if document.size != 0]
    if not documents:
        raise ConfigError(f"data.sources = {','.join(sources)}: holds only empty files; name a file with text in it")
    return documents


def _list_source(source: str) -> list[Document]:
    try:
        documents = list(_expand(source))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ConfigError(f"data.sources = {source}: {one_line(error)}") from None
    if not documents:
        raise ConfigError(f"data.sources = {source}: no files there; a file, a folder, a glob, a URL or stdlib works")
    return documents


def _expand(source: str) -> Iterator[Document]:
    if source == "stdlib":
        store = open_store(sysconfig.get_paths()["stdlib"])
        yield from _walk(store, store.path, _is_library_code, skip_binary=False)
        return
    store = open_store(source)
    info = store.filesystem.get_file_info(store.path)
    if info.type == pafs.FileType.Directory:
        yield from _walk(store, store.path, _is_visible, skip_binary=True)
    elif info.type == pafs.FileType.File:
        yield _document(store, info, info.base_name, skip_binary=False)
    elif re.search(r"[*?\[]", store.path):
        root = re.split(r"[*?\[]", store.path, maxsplit=1)[0].rpartition("/")[0] or "/"
        pattern = re.compile(glob_translate(store.path))
        yield from _walk(store, root, lambda name: bool(pattern.match(f"{root.rstrip('/')}/{name}")), skip_binary=False)
    else:
        raise FileNotFoundError("no such file or folder; a file, a folder, a glob, a URL or stdlib works")


def _walk(store: Store, root: str, keep: Callable[[str], bool], *, skip_binary: bool) -> Iterator[Document]:
    """Regular files below `root` whose path relative to it passes `keep`."""
    for info in store.filesystem.get_file_info(pafs.FileSelector(root, recursive=True, allow_not_found=True)):
        name = info.path.removeprefix(root).lstrip("/")
        if info.type == pafs.FileType.File and keep(name):
            yield _document(store, info, name, skip_binary=skip_binary)


def _document(store: Store, info: pafs.FileInfo, name: str, *, skip_binary: bool) -> Document:
    return Document(name, store.url(info.path), info.size, info.mtime_ns, skip_binary)


def _is_visible(name: str) -> bool:
    return not any(part.startswith(".") for part in name.split("/"))


def _is_library_code(name: str) -> bool:
    is_source = name.endswith(".py") and not name.startswith(STDLIB_GENERATED)
    return is_source and STDLIB_SKIPPED.isdisjoint(name.split("/"))
