"""Parquet files whose bytes depend on their rows alone."""

import pyarrow as pa
import pyarrow.parquet as pq

from reformer_dist.storage.hashed_files import HashingFile


def parquet_writer(file: HashingFile, schema: pa.Schema, *, store_schema: bool = False) -> pq.ParquetWriter:
    """A zstd Parquet writer whose pages carry checksums and whose bytes depend on the rows alone.

    Args:
        file: where it writes.
        schema: of the tables.
        store_schema: keep the schema's metadata in the file.
    """
    return pq.ParquetWriter(
        pa.PythonFile(file, mode="w"),
        schema,
        compression="zstd",
        use_dictionary=False,
        write_statistics=False,
        write_page_checksum=True,
        store_schema=store_schema,
    )
