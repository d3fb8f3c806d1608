"""What a file is: its kind by its name or by `data.format`, and the slices that tasks read it in.

The one file that knows all kinds of files.
"""

import posixpath
from collections.abc import Iterator

from reformer_dist.config.sections.data import DataConfig, FormatName
from reformer_dist.data.reading.columns import Wanted
from reformer_dist.data.reading.files import compression_of
from reformer_dist.data.reading.kinds import arrays, csv, fasta, images, jsonl, parquet, text
from reformer_dist.data.reading.reader import Reader
from reformer_dist.data.reading.records import Record, Records
from reformer_dist.data.reading.slices import FileSlice
from reformer_dist.data.reading.sources import SourceFile

READERS: dict[FormatName, Reader] = {
    "text": text.READER,
    "jsonl": jsonl.READER,
    "csv": csv.READER,
    "tsv": csv.TSV_READER,
    "fasta": fasta.READER,
    "array": arrays.READER,
    "parquet": parquet.READER,
    "image": images.READER,
}
UNKNOWN: FormatName = "text"
"""What a file is whose name says nothing."""
SUFFIXES = {suffix: name for name, reader in READERS.items() for suffix in reader.suffixes}
SLICE_BYTES = 32 << 20
"""Bytes of a large file that one task reads at a time; documents up to this size are all or nothing."""


def format_of(name: str, data: DataConfig) -> FormatName:
    """The kind of a file of that name, compressed or not."""
    if data.format != "auto":
        return data.format
    if compression_of(name):
        name = name.rpartition(".")[0]
    return SUFFIXES.get(posixpath.splitext(name)[1].lower(), UNKNOWN)


def slices_of(file: SourceFile, format_name: FormatName) -> Iterator[FileSlice]:
    """A file in slices of SLICE_BYTES where its kind allows that, else whole; a function of its name and size."""
    size = file.size or 0
    if size <= SLICE_BYTES or not READERS[format_name].is_sliced or compression_of(file.name):
        yield FileSlice(file, format_name)
        return
    starts = range(0, size, SLICE_BYTES)
    for start in starts:
        yield FileSlice(file, format_name, start, start + SLICE_BYTES if start != starts[-1] else None)


def read_records(piece: FileSlice, wanted: Wanted) -> Iterator[Record | Records]:
    """The records that begin in a slice; see `Reader.read` for what is raised."""
    return READERS[piece.format].read(piece, wanted)
