"""NumPy's arrays: a document for each entry along the first axis, named by its index."""

import io
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reformer_dist.data.reading.columns import Column, Wanted
from reformer_dist.data.reading.contents import record_of
from reformer_dist.data.reading.reader import Reader
from reformer_dist.data.reading.records import Record
from reformer_dist.data.reading.slices import FileSlice, open_slice
from reformer_dist.data.tokenizers.tokenizer import TEXT_CONTENT, BadDocument


def read_arrays(piece: FileSlice, wanted: Wanted) -> Iterator[Record]:
    """A document for each entry of the wanted arrays, which have as many entries each; a number by itself is text, too."""
    with open_slice(piece) as stream:
        content = io.BytesIO(stream.read())
    try:
        loaded = np.load(content, allow_pickle=False)
        arrays, groups = _alone(loaded, wanted) if isinstance(loaded, np.ndarray) else _members(loaded, wanted)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise BadDocument(f"no array that can be read: {error}") from None
    for index in range(len(arrays[0]) if arrays[0].ndim else 0):
        group = None if groups is None else str(groups[index])
        yield record_of(f"{piece.file.name}#{index}", [_entry(array, index) for array in arrays], wanted, group)


def _alone(array: NDArray[Any], wanted: Wanted) -> tuple[list[NDArray[Any]], None]:
    if len(wanted.columns) > 1:
        raise BadDocument(f"it is a single array; an .npz file holds several ({wanted.settings})")
    return [array], None


def _members(archive: Mapping[str, Any], wanted: Wanted) -> tuple[list[NDArray[Any]], NDArray[Any] | None]:
    """The wanted arrays of an archive and that of `data.split_by`, all of one length."""
    columns = list(wanted.columns)
    if wanted.split_by is not None:
        columns.append(Column(wanted.split_by, TEXT_CONTENT, "data.split_by"))
    arrays = [_member(archive, column) for column in columns]
    lengths = [len(array) if array.ndim else 0 for array in arrays]
    for column, length in zip(columns, lengths, strict=True):
        if length != lengths[0]:
            raise BadDocument(
                f"its array {column.name} ({column.setting}) has {length} entries for {lengths[0]} documents"
            )
    return arrays[: len(wanted.columns)], arrays[-1] if wanted.split_by is not None else None


def _member(archive: Mapping[str, Any], column: Column) -> NDArray[Any]:
    names = list(archive)
    if column.name is None and len(names) != 1:
        raise BadDocument(f"it has several arrays: {', '.join(names)}; name one of them in {column.setting}")
    if column.name is not None and column.name not in names:
        raise BadDocument(f"it has no array {column.name} ({column.setting}); its arrays: {', '.join(names)}")
    array: NDArray[Any] = archive[column.name or names[0]]
    return array


def _entry(array: NDArray[Any], index: int) -> Any:
    """An entry of an array: a smaller array, or text, as which a label's number is written too."""
    entry = array[index]
    if array.ndim > 1:
        return entry
    value = entry.item()
    return value if isinstance(value, str | bytes) else str(value)


READER = Reader(suffixes=(".npz", ".npy"), contents=("image",), read=read_arrays, beside=("text",))
