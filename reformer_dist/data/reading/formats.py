"""What a file is: its format by its name or by `data.format`, and the slices that its tasks read it in."""

import posixpath
from collections.abc import Iterator
from typing import NamedTuple

from reformer_dist.config.data import DataConfig, FormatName
from reformer_dist.data.reading.files import compression_of
from reformer_dist.data.reading.sources import SourceFile
from reformer_dist.data.tokenizers.tokenizer import Kind

SLICE_BYTES = 32 << 20
"""Bytes of a large file that one task reads at a time; documents up to this size are all or nothing."""
SUFFIXES: dict[str, FormatName] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".fasta": "fasta",
    ".fa": "fasta",
    ".faa": "fasta",
    ".fna": "fasta",
    ".npz": "array",
    ".npy": "array",
    ".parquet": "parquet",
    ".png": "image",
    ".jpg": "image",
    ".jpeg": "image",
}
SLICED: tuple[FormatName, ...] = ("text", "jsonl", "fasta", "parquet")
"""Formats in which a task can find where the first document of its slice begins."""
ONE_DOCUMENT: tuple[FormatName, ...] = ("text", "image")
"""Formats of which a file is one document."""
KINDS: dict[FormatName, tuple[Kind, ...]] = {
    "text": ("text",),
    "jsonl": ("text",),
    "csv": ("text",),
    "tsv": ("text",),
    "fasta": ("text",),
    "array": ("image",),
    "image": ("image",),
    "parquet": ("text", "image"),
}
"""What the documents of a format can be."""


class FileSlice(NamedTuple):
    """What one task reads of a file: the documents that begin in its bytes `start` to `stop`.

    Attributes:
        file: the file.
        format: what it is.
        start: first byte.
        stop: byte after the last, None for the end.
    """

    file: SourceFile
    format: FormatName
    start: int = 0
    stop: int | None = None


def format_of(name: str, data: DataConfig) -> FormatName:
    """The format of a file of that name, compressed or not."""
    if data.format != "auto":
        return data.format
    if compression_of(name):
        name = name.rpartition(".")[0]
    return SUFFIXES.get(posixpath.splitext(name)[1].lower(), "text")


def slices_of(file: SourceFile, format_name: FormatName) -> Iterator[FileSlice]:
    """A file in slices of SLICE_BYTES where its format allows that, else whole; a function of its name and size."""
    size = file.size or 0
    if size <= SLICE_BYTES or format_name not in SLICED or compression_of(file.name):
        yield FileSlice(file, format_name)
        return
    starts = range(0, size, SLICE_BYTES)
    for start in starts:
        yield FileSlice(file, format_name, start, start + SLICE_BYTES if start != starts[-1] else None)
