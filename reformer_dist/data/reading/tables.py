"""Documents of a slice of a file, continued: CSV, TSV, Parquet, arrays and images."""

import io
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image, ImageOps

from reformer_dist.config.data import DataConfig
from reformer_dist.data.reading.formats import FileSlice
from reformer_dist.data.reading.records import Record, open_slice, text_record
from reformer_dist.data.tokenizers.tokenizer import BadDocument, Kind
from reformer_dist.storage.stores import one_line

CSV_BLOCK_BYTES = 8 << 20
"""Bytes that are parsed at a time; a row must fit into them."""
ROWS = 64
"""Rows of a Parquet file that are in memory at a time."""


def read_csv(piece: FileSlice, data: DataConfig) -> Iterator[Record]:
    """A document for each row's column; named by the row's number. TSV knows no quotes, CSV does."""
    field = data.field_of(piece.file.source) or "text"
    has_header = not field.isdecimal()
    columns = [field if has_header else f"f{field}"] + ([data.split_by] if data.split_by else [])
    is_tsv = piece.format == "tsv"
    with open_slice(piece) as stream:
        reader = pyarrow.csv.open_csv(
            pa.PythonFile(stream, "r"),
            pyarrow.csv.ReadOptions(block_size=CSV_BLOCK_BYTES, autogenerate_column_names=not has_header),
            pyarrow.csv.ParseOptions(
                delimiter="\t" if is_tsv else ",", quote_char=False if is_tsv else '"', newlines_in_values=not is_tsv
            ),
            pyarrow.csv.ConvertOptions(
                include_columns=columns,
                column_types=dict.fromkeys(columns, pa.binary()),
                strings_can_be_null=False,
            ),
        )
        row = 0
        for batch in reader:
            for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                group = values[1].decode("utf-8", "replace") if data.split_by else None
                yield Record(f"{piece.file.name}#{row}", values[0], group)
                row += 1


def read_parquet(piece: FileSlice, data: DataConfig, kind: Kind) -> Iterator[Record]:
    """A document for each row's column, of the row groups that begin in the slice; named by the row's number."""
    field = data.field_of(piece.file.source) or "text"
    columns = [field] + ([data.split_by] if data.split_by else [])
    with open_slice(piece) as stream:
        parquet = pq.ParquetFile(pa.PythonFile(stream, "r"))
        names = parquet.schema_arrow.names
        if lacking := [column for column in columns if column not in names]:
            raise BadDocument(
                f"it has no column {lacking[0]} (data.field, data.split_by); its columns: {', '.join(names)}"
            )
        first_row = 0
        for number in range(parquet.num_row_groups):
            group_info = parquet.metadata.row_group(number)
            chunk = group_info.column(0)
            begin = min(
                offset for offset in (chunk.dictionary_page_offset, chunk.data_page_offset) if offset is not None
            )
            if piece.start <= begin and (piece.stop is None or begin < piece.stop):
                row = first_row
                for batch in parquet.iter_batches(ROWS, [number], columns, use_threads=False):
                    for record in batch.select(columns).to_pylist():
                        group = record[data.split_by] if data.split_by else None
                        name = f"{piece.file.name}#{row}"
                        yield (_image_record if kind == "image" else text_record)(name, record[field], group)
                        row += 1
            first_row += group_info.num_rows


def read_array(piece: FileSlice, data: DataConfig) -> Iterator[Record]:
    """A document for each entry along the first axis of an array; named by its index."""
    field = data.field_of(piece.file.source)
    with open_slice(piece) as stream:
        content = io.BytesIO(stream.read())
    try:
        loaded = np.load(content, allow_pickle=False)
        array, groups = (loaded, None) if isinstance(loaded, np.ndarray) else _members(loaded, field, data.split_by)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise BadDocument(f"no array that can be read: {error}") from None
    for index in range(len(array) if array.ndim else 0):
        group = None if groups is None else str(groups[index])
        yield Record(f"{piece.file.name}#{index}", array[index], group)


def _members(archive: Any, field: str | None, split_by: str | None) -> tuple[NDArray[Any], NDArray[Any] | None]:
    names = list(archive)
    if field is None and len(names) != 1:
        raise BadDocument(f"it has several arrays: {', '.join(names)}; name one of them in data.field")
    for name in (field, split_by):
        if name is not None and name not in names:
            raise BadDocument(f"it has no array {name} (data.field, data.split_by); its arrays: {', '.join(names)}")
    array = archive[field or names[0]]
    groups = archive[split_by] if split_by else None
    if groups is not None and len(groups) != len(array):
        raise BadDocument(f"its array {split_by} (data.split_by) has {len(groups)} entries for {len(array)} documents")
    return array, groups


def read_image(piece: FileSlice) -> Iterator[Record]:
    """A picture file as one document, still encoded."""
    with open_slice(piece) as stream:
        yield Record(piece.file.name, stream.read())


def _image_record(name: str, value: Any, group: Any) -> Record:
    """A record of a field that holds an image: a file's bytes, alone or as {bytes, path}, or nested lists of levels."""
    if isinstance(value, dict) and isinstance(value.get("bytes"), bytes):
        value = value["bytes"]
    text_group = None if group is None else str(group)
    if isinstance(value, bytes):
        return Record(name, value, text_group)
    if isinstance(value, list):
        try:
            return Record(name, np.array(value), text_group)
        except ValueError:
            return Record(name, problem="its lists are not all of one length")
    return Record(name, problem=f"its field holds {'nothing' if value is None else type(value).__name__}, not an image")


def decode_image(content: bytes, mode: str) -> NDArray[np.uint8]:
    """Levels of a PNG or JPEG file, turned as its EXIF says: [height, width, 3] for RGB, [height, width] for L.

    Raises:
        BadDocument: no image, or one that is damaged or unreasonably large.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            turned = ImageOps.exif_transpose(image)
            return np.asarray(turned.convert(mode))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadDocument(f"no image that can be read: {one_line(error)}") from None
