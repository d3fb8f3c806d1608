"""Arrow: a document for each row, named by the row's number; files and streams, as the datasets library saves them."""

from collections.abc import Iterator

import pyarrow as pa

from reformer_dist.data.reading.columns import Wanted, check_columns
from reformer_dist.data.reading.kinds.parquet import rows_of
from reformer_dist.data.reading.reader import Reader
from reformer_dist.data.reading.records import Record
from reformer_dist.data.reading.slices import FileSlice, open_slice

FILE_MARK = b"ARROW1"
"""What a file begins with and a stream does not."""


def read_arrow(piece: FileSlice, wanted: Wanted) -> Iterator[Record]:
    """A document for each row's wanted columns, a batch of the file at a time."""
    with open_slice(piece) as stream:
        is_file = stream.read(len(FILE_MARK)) == FILE_MARK
        stream.seek(0)
        source = pa.PythonFile(stream, "r")
        reader = pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source)
        check_columns(reader.schema.names, wanted)
        batches = map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader
        first_row = 0
        for batch in batches:
            yield from rows_of(batch.select(wanted.keys), piece.file.name, first_row, wanted)
            first_row += batch.num_rows


READER = Reader(suffixes=(".arrow",), contents=("text", "image"), read=read_arrow)
