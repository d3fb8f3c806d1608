"""The file that holds what was compressed.

In: coded stretches and what a reader must know of them. Out: a file, and the same back; a file that is none, of another
version, cut short or altered is refused.

    offset  bytes
    0       8       "reformer"
    8       1       version, 1
    9       4       length of the header, little-endian
    13              header: JSON in UTF-8, see `Header`
                    coded stretches, one after the other
    end-32  32      SHA-256 of all before
"""

import hashlib
import json
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from reformer_dist.errors import ConfigError

MAGIC = b"reformer"
VERSION = 1
_START = struct.Struct("<8sBI")


@dataclass(frozen=True)
class Header:
    """What a reader must know."""

    num_bytes: int
    """Of the original."""
    content: str
    """The original's SHA-256, in hexadecimal digits."""
    model: str
    """Digest of the model's weights and settings."""
    checkpoint: str
    """Where its checkpoint was, for people."""
    probe: str
    """Digest of what the model says of a few tokens, see coding.py."""
    machine: str
    """The processor and code that computed it, for people."""
    streams: tuple[int, ...]
    """Bytes of each coded stretch."""


def write(path: Path, header: Header, streams: Sequence[bytes]) -> int:
    """Write a file, which is there under its name when it is whole; returns its bytes.

    Raises:
        OSError: it cannot be written.

    """
    text = json.dumps(asdict(header), sort_keys=True).encode()
    content = b"".join([_START.pack(MAGIC, VERSION, len(text)), text, *streams])
    write_whole(path, content + hashlib.sha256(content).digest())
    return len(content) + hashlib.sha256().digest_size


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under another name first, so that it is there when it is whole."""
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def read(path: Path) -> tuple[Header, list[bytes]]:
    """Header and coded stretches.

    Raises:
        ConfigError: no such file, or one that is damaged.

    """
    content = path.read_bytes()
    if len(content) < _START.size or not content.startswith(MAGIC):
        raise ConfigError(f"{path} was not compressed by reformer_dist; a file that `compress` wrote works")
    _, version, length = _START.unpack_from(content)
    if version != VERSION:
        raise ConfigError(
            f"{path} is of version {version}, and this reformer_dist reads {VERSION}; a matching one works"
        )
    digest_size = hashlib.sha256().digest_size
    body, digest = content[:-digest_size], content[-digest_size:]
    if hashlib.sha256(body).digest() != digest:
        raise ConfigError(f"{path} is cut short or altered: its checksum differs; an undamaged copy works")
    values = json.loads(body[_START.size : _START.size + length])
    values["streams"] = tuple(values["streams"])
    header = Header(**{each.name: values[each.name] for each in fields(Header)})
    streams, start = [], _START.size + length
    for size in header.streams:
        streams.append(body[start : start + size])
        start += size
    return header, streams
