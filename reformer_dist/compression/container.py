"""The file that holds what was compressed.

In: code and what a reader must know of it. Out: a file, and the same back; one that is none, of another version, cut short
or altered is refused.

    bytes   all numbers little-endian
    8       "reformer"
    1       version, 1
    4       length of the header
            header, see `Header`
            streams of code, one after the other
    16      digest of all before (BLAKE2b)
"""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reformer_dist.errors import ConfigError
from reformer_dist.storage.whole_files import whole_file

MAGIC = b"reformer"
VERSION = 1
DIGEST_BYTES = 16
_START = struct.Struct("<8sBI")
_NUMBERS = struct.Struct(f"<QI{DIGEST_BYTES}s{DIGEST_BYTES}s{DIGEST_BYTES}sIHH")


def digest_of(*parts: bytes) -> bytes:
    """BLAKE2b of all parts one after the other, DIGEST_BYTES long."""
    found = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        found.update(part)
    return found.digest()


@dataclass(frozen=True)
class Header:
    """What a reader must know. Its numbers stand in the file in this order, then the sizes, then the two texts in UTF-8."""

    num_bytes: int
    """Of the original."""
    num_stretches: int
    """In which it was cut."""
    content: bytes
    """The original's digest."""
    model: bytes
    """Digest of the model's weights and settings."""
    probe: bytes
    """Digest of what the model says of a few tokens, see coding.py."""
    checkpoint: str
    """Where the model's checkpoint was, for people."""
    machine: str
    """The processor and code that computed it, for people."""
    sizes: tuple[int, ...]
    """Bytes of each stream."""

    def to_bytes(self) -> bytes:
        """As it stands in the file."""
        texts = [text.encode()[: (1 << 16) - 1] for text in (self.checkpoint, self.machine)]
        digests = self.content, self.model, self.probe
        numbers = _NUMBERS.pack(self.num_bytes, self.num_stretches, *digests, len(self.sizes), *map(len, texts))
        return b"".join([numbers, struct.pack(f"<{len(self.sizes)}I", *self.sizes), *texts])

    @classmethod
    def from_bytes(cls, data: bytes) -> "Header":
        """What `to_bytes` made."""
        num_bytes, num_stretches, content, model, probe, num_streams, *lengths = _NUMBERS.unpack_from(data)
        sizes = struct.unpack_from(f"<{num_streams}I", data, _NUMBERS.size)
        texts = data[_NUMBERS.size + 4 * num_streams :]
        checkpoint, machine = (
            text.decode("utf-8", "replace") for text in (texts[: lengths[0]], texts[lengths[0] : sum(lengths)])
        )
        return cls(num_bytes, num_stretches, content, model, probe, checkpoint, machine, sizes)


def write(path: Path, header: Header, streams: Sequence[bytes]) -> int:
    """Write a file, which is there under its name when it is whole; returns its bytes.

    Raises:
        OSError: it cannot be written.

    """
    text = header.to_bytes()
    content = b"".join([_START.pack(MAGIC, VERSION, len(text)), text, *streams])
    write_whole(path, content + digest_of(content))
    return len(content) + DIGEST_BYTES


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is there when it is whole. Raises OSError, which names it, if it cannot be written."""
    try:
        with whole_file(path) as file:
            file.write(content)
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error.strerror}; a disk with room works") from error


def read(path: Path) -> tuple[Header, list[bytes]]:
    """Header and streams.

    Raises:
        ConfigError: a file that is none of these, or is damaged.

    """
    content = path.read_bytes()
    if len(content) < _START.size or not content.startswith(MAGIC):
        raise ConfigError(f"{path} was not compressed by reformer_dist; a file that `compress` wrote works")
    _, version, length = _START.unpack_from(content)
    if version != VERSION:
        raise ConfigError(
            f"{path} is of version {version}, and this reformer_dist reads {VERSION}; a matching one works"
        )
    body = content[:-DIGEST_BYTES]
    if digest_of(body) != content[-DIGEST_BYTES:]:
        raise ConfigError(f"{path} is cut short or altered: its checksum differs; an undamaged copy works")
    header = Header.from_bytes(body[_START.size : _START.size + length])
    streams, start = [], _START.size + length
    for size in header.sizes:
        streams.append(body[start : start + size])
        start += size
    return header, streams
