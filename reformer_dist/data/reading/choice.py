"""What a file is: by its first bytes, then by its name, or by `data.format`; and the slices that tasks read it in.

The one file that knows all kinds of files.
"""

import codecs
import posixpath
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from reformer_dist.config.sections.data import DataConfig, FormatName
from reformer_dist.data.reading.beginnings import with_beginnings
from reformer_dist.data.reading.blanks import without_blanks
from reformer_dist.data.reading.columns import Wanted
from reformer_dist.data.reading.files import StoreError, read_head
from reformer_dist.data.reading.finding.sources import Listing, SourceFile
from reformer_dist.data.reading.kinds import arrays, arrow, csv, fasta, images, jsonl, parallel, parquet, text
from reformer_dist.data.reading.lines import cut_records
from reformer_dist.data.reading.reader import Reader
from reformer_dist.data.reading.recognition import (
    COMPRESSED_SUFFIXES,
    HEAD_BYTES,
    Unreadable,
    compression_in,
    encoding_in,
    format_in,
)
from reformer_dist.data.reading.records import Record, Records
from reformer_dist.data.reading.slices import RAW, FileSlice
from reformer_dist.errors import ConfigError

READERS: dict[FormatName, Reader] = {
    "text": text.READER,
    "jsonl": jsonl.READER,
    "csv": csv.READER,
    "tsv": csv.TSV_READER,
    "fasta": fasta.READER,
    "array": arrays.READER,
    "parquet": parquet.READER,
    "arrow": arrow.READER,
    "image": images.READER,
    "parallel": parallel.READER,
}
UNKNOWN: FormatName = "text"
"""What a file is whose name says nothing."""
SUFFIXES = {suffix: name for name, reader in READERS.items() for suffix in reader.suffixes}
REQUESTS = 32
"""Files of a store that are looked at at a time."""
WRITTEN: frozenset[FormatName] = frozenset({"text", "jsonl", "csv", "tsv", "fasta", "parallel"})
"""Kinds of files that are text, in some encoding."""
SLICE_BYTES = 32 << 20
"""Bytes of a large file that one task reads at a time; documents up to this size are all or nothing."""


class NotRead(Exception):
    """A file that no reader takes; the text goes after its name."""


def format_named(name: str) -> FormatName:
    """The kind of a file of that name, compressed or not."""
    stem, suffix = posixpath.splitext(name.lower())
    if suffix in COMPRESSED_SUFFIXES:
        suffix = posixpath.splitext(stem)[1]
    return SUFFIXES.get(suffix, UNKNOWN)


def recognise(file: SourceFile, data: DataConfig) -> FileSlice:
    """A file, whole, as what its first bytes and then its name and `data` say it is.

    Raises:
        NotRead: what it is is not read.
        StoreError: it cannot be read.
    """
    head = read_head(file.url, HEAD_BYTES)
    compression = compression_in(head)
    if compression is not None:
        head = _decompressed_head(file.url, compression)
        if (inner := compression_in(head)) is not None:
            raise NotRead(f"is compressed twice ({compression} of {inner}); decompress it once")
    found: FormatName | Unreadable | None = format_in(head) if data.format == "auto" else data.format
    if isinstance(found, Unreadable):
        inside = f", compressed by {compression}" if compression else ""
        raise NotRead(f"is {found.kind}{inside}; {found.hint}")
    named = format_named(file.name)
    if compression is not None and found in ("parquet", "arrow"):
        raise NotRead(f"is {found} compressed by {compression}; decompress it")
    whole = FileSlice(file, found or named, compression=compression)
    if whole.format not in WRITTEN:
        return whole
    encoding = encoding_in(head) or (RAW if data.encoding == RAW else codecs.lookup(data.encoding).name)
    if encoding == "utf-8-sig" and data.errors == "strict":  # readers leave that mark out themselves
        encoding = "utf-8"
    return whole._replace(encoding=encoding, errors=data.errors)


def _decompressed_head(url: str, compression: str) -> bytes:
    """The first bytes of a compressed file; none where it is damaged, which is told when it is read."""
    try:
        return read_head(url, HEAD_BYTES, compression)
    except StoreError:
        raise
    except (EOFError, OSError):
        return b""


def gathered(listing: Listing, data: DataConfig) -> Listing:
    """A listing whose files know those that belong to them, where `data.format` is a kind of several files.

    Raises:
        ConfigError: a file that belongs to none, or to one that is not there.
    """
    gather = None if data.format == "auto" else READERS[data.format].gather
    return gather(listing, data) if gather else listing


def recognise_all(listing: Listing, data: DataConfig) -> Iterator[FileSlice]:
    """All files of a listing, those of a store some at a time; what was found and is not read is counted as left.

    Raises:
        ConfigError: a file that somebody named is not read, or cannot be.
    """

    def look(file: SourceFile) -> FileSlice | str:
        try:
            return recognise(file, data)
        except NotRead as error:
            if not file.found:
                raise ConfigError(f"data.sources: {file.url} {error}") from None
            return str(error)
        except StoreError as error:
            raise ConfigError(str(error)) from None

    remote = any("://" in file.url for file in listing.files[:1])
    with ThreadPoolExecutor(REQUESTS) as pool:
        for file, seen in zip(listing.files, (pool.map if remote else map)(look, listing.files), strict=True):
            found = [seen, *map(look, listing.siblings.get(file.url, ()))]
            slices = [each for each in found if isinstance(each, FileSlice)]
            if len(slices) == len(found):
                yield slices[0]._replace(siblings=tuple(slices[1:]))
            else:
                reason = next(each for each in found if isinstance(each, str))
                listing.left.add(f"of what {reason.partition(';')[0]}", file.name)


def slices_of(whole: FileSlice) -> Iterator[FileSlice]:
    """A file in slices of SLICE_BYTES where its kind allows that, else whole; a function of what it is and its size."""
    size = whole.file.size or 0
    is_sliced = READERS[whole.format].is_sliced and whole.compression is None and not whole.is_converted
    if size <= SLICE_BYTES or not is_sliced:
        yield whole
        return
    starts = range(0, size, SLICE_BYTES)
    for start in starts:
        yield whole._replace(start=start, stop=start + SLICE_BYTES if start != starts[-1] else None)


def read_records(piece: FileSlice, wanted: Wanted) -> Iterator[Record | Records]:
    """The records that begin in a slice, cut into lines if that is wanted, with a content for each field.

    See `Reader.read` for what is raised.
    """
    records = READERS[piece.format].read(piece, wanted)
    if wanted.split_lines:
        records = cut_records(records, wanted)
    return with_beginnings(without_blanks(records, wanted), wanted) if len(wanted.columns) > 1 else records
