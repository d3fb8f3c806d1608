"""CSV and TSV: a document for each row, named by the row's number. TSV knows no quotes, CSV does."""

from collections.abc import Iterator
from functools import partial

import pyarrow as pa
import pyarrow.csv

from reformer_dist.data.reading.columns import Wanted
from reformer_dist.data.reading.reader import Reader
from reformer_dist.data.reading.records import Records
from reformer_dist.data.reading.slices import FileSlice, open_slice
from reformer_dist.data.tokenizers.tokenizer import BadDocument

BLOCK_BYTES = 8 << 20
"""Bytes that are parsed at a time; a row must fit into them."""
COMMAS = pyarrow.csv.ParseOptions(delimiter=",", quote_char='"', newlines_in_values=True)
TABS = pyarrow.csv.ParseOptions(delimiter="\t", quote_char=False, newlines_in_values=False)


def read_csv(piece: FileSlice, wanted: Wanted, options: pyarrow.csv.ParseOptions) -> Iterator[Records]:
    """A document for each row's wanted columns; columns that are numbers are of a file without a header."""
    are_numbers = {column.key.isdecimal() for column in wanted.columns}
    if len(are_numbers) > 1:
        raise BadDocument(f"its columns are named or numbered, not both ({wanted.settings})")
    has_header = are_numbers == {False}
    keys = [column.key if has_header else f"f{column.key}" for column in wanted.columns]
    columns = list(dict.fromkeys([*keys, wanted.split_by] if wanted.split_by else keys))
    with open_slice(piece) as stream:
        reader = pyarrow.csv.open_csv(
            pa.PythonFile(stream, "r"),
            pyarrow.csv.ReadOptions(block_size=BLOCK_BYTES, autogenerate_column_names=not has_header),
            options,
            pyarrow.csv.ConvertOptions(
                include_columns=columns,
                column_types=dict.fromkeys(columns, pa.binary()),
                strings_can_be_null=False,
            ),
        )
        first_row = 0
        for batch in reader:
            lists = {name: batch.column(name).to_pylist() for name in columns}
            groups = None
            if wanted.split_by:
                groups = [value.decode("utf-8", "replace") for value in lists[wanted.split_by]]
            names = [f"{piece.file.name}#{row}" for row in range(first_row, first_row + batch.num_rows)]
            yield Records(names, [lists[key] for key in keys], groups)
            first_row += batch.num_rows


READER = Reader(suffixes=(".csv",), contents=("text",), read=partial(read_csv, options=COMMAS))
TSV_READER = Reader(suffixes=(".tsv",), contents=("text",), read=partial(read_csv, options=TABS))
