"""Parallel files: one a column, beside each other. Line i of each makes a document, named by the line's number from 1."""

from collections.abc import Iterator

from reformer_dist.data.reading.columns import Wanted
from reformer_dist.data.reading.contents import record_of
from reformer_dist.data.reading.delimited import entries_of
from reformer_dist.data.reading.finding.siblings import stem_and_column, with_siblings
from reformer_dist.data.reading.reader import Reader
from reformer_dist.data.reading.records import Record
from reformer_dist.data.reading.slices import RAW, FileSlice, not_utf8
from reformer_dist.data.tokenizers.tokenizer import BadDocument


def read_parallel(piece: FileSlice, wanted: Wanted) -> Iterator[Record]:
    """A document for each line of the wanted columns' files; Windows line ends are taken.

    Raises:
        BadDocument: one file has more lines than another, so that it is unknown which lines belong together.
    """
    by_column = {stem_and_column(each.file.name)[1]: each for each in (piece, *piece.siblings)}
    files = [by_column[key] for key in wanted.keys]
    places = [wanted.keys.index(column.key) for column in wanted.columns]
    if len(files) > 1:
        _check_counts(files)
    for number, lines in enumerate(zip(*map(_lines, files), strict=True), 1):
        name = f"{piece.file.name}#{number}"
        try:
            texts = [_text(line, file) for line, file in zip(lines, files, strict=True)]
        except BadDocument as error:
            yield Record(name, problem=str(error))
            continue
        group = texts[wanted.keys.index(wanted.split_by)] if wanted.split_by is not None else None
        yield record_of(name, [texts[place] for place in places], wanted, group)


def _lines(file: FileSlice) -> Iterator[bytes]:
    for _, lines in entries_of(file, b"\n"):
        yield from lines


def _check_counts(files: list[FileSlice]) -> None:
    """Raises BadDocument for files of different numbers of lines; all are read for it, before any is used."""
    counts = [sum(len(lines) for _, lines in entries_of(file, b"\n")) for file in files]
    for file, count in zip(files, counts, strict=True):
        if count != counts[0]:
            raise BadDocument(
                f"it has {counts[0]:,} lines and {file.file.name} {count:,}; line i of one belongs to line i of the other"
            )


def _text(line: bytes, file: FileSlice) -> str | bytes:
    """A line of a file as text. Raises BadDocument for one that is no UTF-8."""
    line = line.removesuffix(b"\r")
    if file.encoding == RAW:
        return line
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise BadDocument(f"in {file.file.name} {not_utf8(error)}") from None


READER = Reader(suffixes=(), contents=("text",), read=read_parallel, gather=with_siblings)
