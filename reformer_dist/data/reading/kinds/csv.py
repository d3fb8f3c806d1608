"""CSV and TSV: a document for each row, named by the row's number. TSV knows no quotes, CSV does."""

import csv
import io
from collections.abc import Iterator
from functools import partial

import pyarrow as pa
import pyarrow.csv

from reformer_dist.data.reading.columns import Wanted, check_columns
from reformer_dist.data.reading.reader import Reader
from reformer_dist.data.reading.records import Record, Records
from reformer_dist.data.reading.slices import FileSlice, not_utf8, open_text
from reformer_dist.data.tokenizers.tokenizer import BadDocument

BLOCK_BYTES, MOST_BLOCK_BYTES = 8 << 20, 512 << 20
"""Bytes that are parsed at a time, and at most where a row does not fit into them."""
HEADER_BYTES = 1 << 16
"""Bytes in which the header is looked for."""
COMMAS = pyarrow.csv.ParseOptions(delimiter=",", quote_char='"', newlines_in_values=True)
TABS = pyarrow.csv.ParseOptions(delimiter="\t", quote_char=False, newlines_in_values=False)


def read_csv(piece: FileSlice, wanted: Wanted, options: pyarrow.csv.ParseOptions) -> Iterator[Record | Records]:
    """A document for each row's wanted columns; columns that are numbers are of a file without a header.

    A row of more or fewer columns than the header, or that is no UTF-8, is a bad document.
    """
    are_numbers = {column.key.isdecimal() for column in wanted.columns}
    if len(are_numbers) > 1:
        raise BadDocument(f"its columns are named or numbered, not both ({wanted.settings})")
    block_bytes, first_row = BLOCK_BYTES, 0
    while True:
        try:
            for rows in _blocks(piece, wanted, options, first_row, block_bytes, has_header=are_numbers == {False}):
                yield from rows.records()
                first_row = rows.end
            return
        except pa.lib.ArrowKeyError:  # of a file without a header: there is no column of that number
            with open_text(piece) as stream:
                check_columns([str(number) for number, _ in enumerate(_first_row(stream, options.delimiter))], wanted)
            raise
        except pa.ArrowInvalid as error:
            if "straddling" not in str(error) or block_bytes >= MOST_BLOCK_BYTES:
                raise
            block_bytes *= 8  # a row is longer than that


class _Rows:
    """The rows of a block, and which of the rows among them were not of the header's columns."""

    def __init__(self, name: str, columns: list[pa.Array], groups: pa.Array | None, first: int) -> None:
        self.name, self.columns, self.groups, self.first = name, columns, groups, first
        self.ragged: dict[int, str] = {}
        self.end = first

    def records(self) -> Iterator[Record | Records]:
        """The good ones together, if all are; else one by one, in order."""
        problems = {**self.ragged, **self._undecodable()}
        numbers = [n for n in range(self.first, self.end) if n not in self.ragged]
        names = [f"{self.name}#{number}" for number in numbers]
        columns = [column.to_pylist() for column in self.columns]
        groups = [value.decode("utf-8", "replace") for value in self.groups.to_pylist()] if self.groups else None
        if not problems:
            yield Records(names, columns, groups)
            return
        good = {number: place for place, number in enumerate(numbers)}
        for number in range(self.first, self.end):
            if number in problems:
                yield Record(f"{self.name}#{number}", problem=problems[number])
            else:
                place = good[number]
                group = groups[place] if groups else None
                yield Record(f"{self.name}#{number}", tuple(column[place] for column in columns), group)

    def _undecodable(self) -> dict[int, str]:
        """What is wrong with rows whose values are no UTF-8."""
        found: dict[int, str] = {}
        numbers = [n for n in range(self.first, self.end) if n not in self.ragged]
        for column in self.columns:
            try:
                column.cast(pa.string())
            except pa.ArrowInvalid:
                for number, value in zip(numbers, column.to_pylist(), strict=True):
                    try:
                        value.decode()
                    except UnicodeDecodeError as error:
                        found.setdefault(number, f"of its value {not_utf8(error)}")
        return found


def _blocks(
    piece: FileSlice,
    wanted: Wanted,
    options: pyarrow.csv.ParseOptions,
    first_row: int,
    block_bytes: int,
    *,
    has_header: bool,
) -> Iterator[_Rows]:
    """The rows from `first_row` on, a block at a time."""
    prefix = "" if has_header else "f"  # as pyarrow names columns by number
    keys = [f"{prefix}{column.key}" for column in wanted.columns]
    columns = [f"{prefix}{key}" for key in wanted.keys]
    ragged: dict[int, str] = {}

    def skip(row: pyarrow.csv.InvalidRow) -> str:
        ragged[row.number - 1 - has_header] = f"it has {row.actual_columns} columns, not {row.expected_columns}"
        return "skip"

    with open_text(piece) as stream:
        if has_header:
            _check_header(stream, options.delimiter, wanted)
        reader = pyarrow.csv.open_csv(
            pa.PythonFile(stream, "r"),
            pyarrow.csv.ReadOptions(
                block_size=block_bytes,
                autogenerate_column_names=not has_header,
                use_threads=False,
                skip_rows_after_names=first_row,
            ),
            pyarrow.csv.ParseOptions(
                delimiter=options.delimiter,
                quote_char=options.quote_char,
                newlines_in_values=options.newlines_in_values,
                invalid_row_handler=skip,
            ),
            pyarrow.csv.ConvertOptions(
                include_columns=columns, column_types=dict.fromkeys(columns, pa.binary()), strings_can_be_null=False
            ),
        )
        for batch in reader:
            groups = batch.column(f"{prefix}{wanted.split_by}") if wanted.split_by else None
            rows = _Rows(piece.file.name, [batch.column(key) for key in keys], groups, first_row)
            good = 0
            while good < batch.num_rows or first_row in ragged:
                if first_row in ragged:
                    rows.ragged[first_row] = ragged[first_row]
                else:
                    good += 1
                first_row += 1
            rows.end = first_row
            yield rows


def _check_header(stream: io.BufferedIOBase, delimiter: str, wanted: Wanted) -> None:
    """Raises BadDocument for a file without a wanted column, or with two of its name."""
    names = _first_row(stream, delimiter)
    try:
        check_columns(names, wanted)
    except BadDocument as error:
        raise BadDocument(f"{error}; without a header they are 0 to {len(names) - 1}") from None


def _first_row(stream: io.BufferedIOBase, delimiter: str) -> list[str]:
    """The values of the first row, which is not taken out of the stream."""
    head = stream.peek(HEADER_BYTES)[:HEADER_BYTES].decode("utf-8-sig", "replace")  # type: ignore[attr-defined]
    text = io.StringIO(head, newline="")
    rows = csv.reader(text) if delimiter == "," else csv.reader(text, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    return next(rows, [])


READER = Reader(suffixes=(".csv",), contents=("text",), read=partial(read_csv, options=COMMAS))
TSV_READER = Reader(suffixes=(".tsv",), contents=("text",), read=partial(read_csv, options=TABS))
