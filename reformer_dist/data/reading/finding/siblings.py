"""Files beside each other that hold a record's fields: a listing in, one in which each file knows its siblings out.

A file's column is its last suffix, or the one before a suffix of compression: en of train.en and of train.en.gz.
"""

import posixpath
from typing import NamedTuple

import pyarrow.fs as pafs

from reformer_dist.config.sections.data import DataConfig
from reformer_dist.data.reading.columns import Wanted, wanted_of
from reformer_dist.data.reading.finding.sources import Listing, SourceFile, file_at
from reformer_dist.data.reading.recognition import COMPRESSED_SUFFIXES
from reformer_dist.data.tokenizers.tokenizer import TEXT_CONTENT
from reformer_dist.errors import ConfigError
from reformer_dist.storage.stores import STORE_ERRORS, below, open_store, parted


class Place(NamedTuple):
    """What siblings have in common: the URL of their folder, and their names without the suffixes."""

    folder: str
    stem: str


def stem_and_column(name: str) -> tuple[str, str]:
    """A file's name without its suffixes, and its column."""
    stem, suffix = posixpath.splitext(name)
    if suffix.lower() in COMPRESSED_SUFFIXES:
        stem, suffix = posixpath.splitext(stem)
    return stem, suffix.removeprefix(".")


def with_siblings(listing: Listing, data: DataConfig) -> Listing:
    """The files of each source's first column, and for each the files of the other columns, listed or not.

    Raises:
        ConfigError: a file that was named is of no column, or has no sibling; with data.on_bad = fail so for those found.
    """
    wanted = [
        wanted_of(data, index, dict.fromkeys(data.record_fields, TEXT_CONTENT)) for index in range(len(data.sources))
    ]
    groups: dict[Place, dict[str, SourceFile]] = {}
    for file in listing.files:
        folder, name = parted(file.url)
        stem, column = stem_and_column(name)
        if column not in wanted[file.source].keys:
            if not file.found:
                raise ConfigError(
                    f"data.sources: {file.url} holds no column; names that end in {_ends(wanted[file.source])} work"
                )
            listing.left.add("files whose names end in no column", file.name)
        elif groups.setdefault(Place(folder or "/", stem), {}).setdefault(column, file) is not file:
            listing.left.add("files of a column that is there already", file.name)
    files: list[SourceFile] = []
    siblings: dict[str, tuple[SourceFile, ...]] = {}
    for place, group in groups.items():
        known = next(iter(group.values()))
        keys = wanted[known.source].keys
        found = {key: _sibling(place, key, known) for key in keys if key not in group}
        group |= {key: sibling for key, sibling in found.items() if sibling}
        if missing := [key for key in keys if key not in group]:
            if not (known.found and data.on_bad == "skip"):
                raise ConfigError(_missing_line(place, missing[0], known, wanted[known.source]))
            listing.left.add("files without their siblings", known.name)
            continue
        first, *others = (group[key]._replace(source=known.source) for key in keys)
        files.append(first)
        siblings[first.url] = tuple(others)
    if not files:
        raise ConfigError(
            f"data.sources = {','.join(data.sources)}: no files there whose names end in {_ends(wanted[0])}"
        )
    return Listing(files, listing.left, siblings)


def _sibling(place: Place, column: str, known: SourceFile) -> SourceFile | None:
    """The file of a column beside a known one, under whatever suffix of compression."""
    known_name = parted(known.url)[1]
    stem, known_column = stem_and_column(known_name)
    ending = known_name.removeprefix(f"{stem}.{known_column}")
    names = _names_beside(place) or [f"{stem}.{column}{ending}"]  # a web server lists nothing
    name = next((each for each in names if stem_and_column(each) == (stem, column)), None)
    file = file_at(below(place.folder, name)) if name else None
    name = posixpath.join(posixpath.dirname(known.name), file.name) if file else ""
    return file and file._replace(name=name, found=known.found)


def _names_beside(place: Place) -> list[str]:
    """The files of a folder whose names begin with the stem, sorted; none where the store cannot list."""
    try:
        store = open_store(place.folder)
        infos = store.filesystem.get_file_info(pafs.FileSelector(store.path))
    except (*STORE_ERRORS, ValueError):
        return []
    return sorted(info.base_name for info in infos if info.is_file and info.base_name.startswith(f"{place.stem}."))


def _missing_line(place: Place, column: str, known: SourceFile, wanted: Wanted) -> str:
    """That a file has no sibling, and which it has."""
    beside = ", ".join(_names_beside(place)) or "nothing that can be listed"
    return (
        f"data.sources: {known.url} has no {place.stem}.{column} beside it ({wanted.setting_of(column)} = {column});"
        f" there are {beside}"
    )


def _ends(wanted: Wanted) -> str:
    """The columns as suffixes, with the settings that name them."""
    return " or ".join(f".{key} ({wanted.setting_of(key)})" for key in wanted.keys)
