"""Parquet: a document for each row, named by the row's number."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from reformer_dist.data.reading.columns import Wanted, check_columns
from reformer_dist.data.reading.contents import record_of
from reformer_dist.data.reading.reader import Reader
from reformer_dist.data.reading.records import Record
from reformer_dist.data.reading.slices import FileSlice, open_slice

ROWS = 64
"""Rows of a file that are in memory at a time."""


def read_parquet(piece: FileSlice, wanted: Wanted) -> Iterator[Record]:
    """A document for each row's wanted columns, of the row groups that begin in the slice."""
    columns = wanted.keys
    with open_slice(piece) as stream:
        parquet = pq.ParquetFile(pa.PythonFile(stream, "r"))
        check_columns(parquet.schema_arrow.names, wanted)
        first_row = 0
        for number in range(parquet.num_row_groups):
            num_rows = parquet.metadata.row_group(number).num_rows
            begin = _begin(parquet.metadata, number)
            if piece.start <= begin and (piece.stop is None or begin < piece.stop):
                row = first_row
                for batch in parquet.iter_batches(ROWS, [number], columns, use_threads=False):
                    yield from rows_of(batch.select(columns), piece.file.name, row, wanted)
                    row += batch.num_rows
            first_row += num_rows


def rows_of(batch: pa.RecordBatch, name: str, first_row: int, wanted: Wanted) -> Iterator[Record]:
    """A record for each row of a batch that has the wanted columns."""
    for row, values in enumerate(batch.to_pylist(), first_row):
        group = values[wanted.split_by] if wanted.split_by else None
        yield record_of(f"{name}#{row}", [values[column.key] for column in wanted.columns], wanted, group)


def _begin(metadata: pq.FileMetaData, row_group: int) -> int:
    """The byte where a row group begins."""
    chunk = metadata.row_group(row_group).column(0)
    return min(offset for offset in (chunk.dictionary_page_offset, chunk.data_page_offset) if offset is not None)


READER = Reader(suffixes=(".parquet",), contents=("text", "image"), read=read_parquet, is_sliced=True)
