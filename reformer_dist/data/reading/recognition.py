"""What a file is by its first bytes, whatever it is called: how it is compressed, what it holds, how its text is written.

In: a file's first bytes. Out: what they say. Nothing here knows readers; `choice.py` puts this and names together.
"""

import re
from typing import NamedTuple

from reformer_dist.config.sections.data import FormatName

HEAD_BYTES = 512
"""Bytes that tell: a tar archive says so at byte 257."""
COMPRESSIONS = {
    "gzip": re.compile(rb"\x1f\x8b\x08"),
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),
    "bz2": re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"),
    "xz": re.compile(rb"\xfd7zXZ\x00"),
}
"""First bytes of what is decompressed before it is read."""
COMPRESSED_SUFFIXES = frozenset({".gz", ".zst", ".bz2", ".xz", ".zstd"})
"""Ends of the names of such files, in small letters."""
FORMATS: dict[FormatName, re.Pattern[bytes]] = {
    "parquet": re.compile(rb"PAR1"),
    "arrow": re.compile(rb"ARROW1\x00\x00|\xff\xff\xff\xff[^\xff]..\x00", re.DOTALL),
    "array": re.compile(rb"\x93NUMPY"),
    "image": re.compile(rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|GIF8[79]a|RIFF....WEBP|II\*\x00|MM\x00\*", re.DOTALL),
}
"""First bytes of what a reader takes."""
_ZIP = re.compile(rb"PK(\x03\x04|\x05\x06)")
_TAR = re.compile(rb".{257}ustar[\x00 ]", re.DOTALL)
UNREADABLE = {
    ("a zip archive", "unzip it and name the folder"): _ZIP,
    ("a tar archive", "unpack it (tar -xf) and name the folder"): _TAR,
    ("a 7z archive", "unpack it and name the folder"): re.compile(rb"7z\xbc\xaf\x27\x1c"),
    ("a rar archive", "unpack it and name the folder"): re.compile(rb"Rar!\x1a\x07"),
    ("compressed by lz4", "unlz4 it, or compress it by gzip, zstd, bzip2 or xz"): re.compile(rb"\x04\x22\x4d\x18"),
    ("compressed by lzip", "lzip -d it, or compress it by gzip, zstd, bzip2 or xz"): re.compile(rb"LZIP\x01"),
    ("compressed by compress", "uncompress it"): re.compile(rb"\x1f[\x9d\xa0]"),
    ("a PDF document", "pdftotext makes text of it"): re.compile(rb"%PDF-\d"),
    ("an SQLite database", "export a table as CSV or JSONL"): re.compile(rb"SQLite format 3\x00"),
    ("an HDF5 file", "export it as Parquet or .npz"): re.compile(rb"\x89HDF\r\n\x1a\n"),
    ("an Avro file", "export it as Parquet or JSONL"): re.compile(rb"Obj\x01"),
    ("an ORC file", "export it as Parquet"): re.compile(rb"ORC[\x00-\x1f]"),
    ("a pickle", "a pickle can run any program and is never read; export it as Parquet or JSONL"): re.compile(
        rb"\x80[\x02-\x05](\x95|c|\}|\]|q|X|K|\()"
    ),
    ("a program", "name its source code"): re.compile(rb"\x7fELF|MZ\x90\x00|\xca\xfe\xba\xbe|\xcf\xfa\xed\xfe"),
}
"""What no reader takes: what it is and what to do, by its first bytes."""
MARKS = (
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
"""Byte-order marks and what text after one is written in, the longer ones first."""


class Unreadable(NamedTuple):
    """What a file is that is not read, and what to do with it."""

    kind: str
    hint: str


def compression_in(head: bytes) -> str | None:
    """How what begins so is compressed."""
    return next((name for name, start in COMPRESSIONS.items() if start.match(head)), None)


def format_in(head: bytes) -> FormatName | Unreadable | None:
    """What begins so, if its first bytes say it; what has been decompressed, if it was compressed."""
    if _ZIP.match(head) and head[30 : 30 + int.from_bytes(head[26:28], "little")].endswith(b".npy"):
        return "array"
    found = next((name for name, start in FORMATS.items() if start.match(head)), None)
    return found or next((Unreadable(*about) for about, start in UNREADABLE.items() if start.match(head)), None)


def encoding_in(head: bytes) -> str | None:
    """How text is written that begins with a byte-order mark."""
    return next((name for mark, name in MARKS if head.startswith(mark)), None)
