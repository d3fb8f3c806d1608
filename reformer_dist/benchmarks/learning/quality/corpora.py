"""What is learned from: a corpus of bytes in memory, cut into what is trained on and what is held out.

In: the standard library's source, or a text file. Out: batches of tokens and labels, int64 [B, T].

The held-out bytes are a few blocks of BLOCK bytes. Each block is cut into sequences of whatever length a model takes, so
that models of all lengths are scored on the same bytes.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from reformer_dist.config import DataConfig
from reformer_dist.data.preparing.documents import splits_of
from reformer_dist.data.preparing.manifest import SPLITS
from reformer_dist.data.reading.files import open_bytes, read_head
from reformer_dist.data.reading.finding.sources import list_files
from reformer_dist.data.reading.recognition import HEAD_BYTES, compression_in
from reformer_dist.data.tokenizers.single_bytes import BytesTokenizer
from reformer_dist.errors import ConfigError

BLOCK = 16_384
"""Bytes of a held-out block, a multiple of all lengths; one byte more is its last label."""
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Corpus:
    """Bytes to train on and bytes held out."""

    name: str
    """What its results are called, such as stdlib."""
    training: Bytes
    """[n], all documents one after the other."""
    held_out: Bytes
    """[blocks, BLOCK + 1]."""

    @property
    def digest(self) -> str:
        """A hash of all of it, by which a finished run knows its corpus."""
        return xxhash.xxh3_64_hexdigest(self.training.tobytes() + self.held_out.tobytes())

    def batch(self, length: int, num_tokens: int, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Tokens and labels [num_tokens / length, length] of stretches drawn from anywhere in what is trained on."""
        starts = generator.integers(len(self.training) - length, size=num_tokens // length)
        return _tokens_and_labels(np.stack([self.training[start : start + length + 1] for start in starts]))

    def with_few_blocks(self) -> Self:
        """The same with every fourth held-out block, for scores on the way."""
        return replace(self, held_out=self.held_out[::4])

    def held_out_sequences(self, length: int) -> tuple[Tensor, Tensor]:
        """Tokens and labels [blocks * (BLOCK / length), length]; each held-out byte is a label once."""
        starts = range(0, self.held_out.shape[1] - 1, length)
        return _tokens_and_labels(
            np.concatenate([self.held_out[:, start : start + length + 1] for start in starts], axis=0)
        )


def standard_library(num_blocks: int) -> Corpus:
    """The source of Python's standard library as `data.sources: stdlib` reads it, held out by files.

    The hash of a file's name puts it into a split, as in a prepared corpus. Files follow each other in order of their
    names, each after a NUL, and the blocks are spread evenly over those of the validation split.
    """
    files = list_files(("stdlib",))
    splits = splits_of((file.name for file in files), DataConfig(sources=("stdlib",)))
    boundary = bytes([BytesTokenizer.boundary])
    training, held_out = (
        np.frombuffer(
            boundary.join(
                open_bytes(file.url, None).read()
                for file, split in zip(files, splits, strict=True)
                if SPLITS[split] == wanted
            ),
            np.uint8,
        )
        for wanted in ("train", "validation")
    )
    return Corpus("stdlib", training, spread_blocks(held_out, num_blocks, BLOCK))


def spread_blocks(held_out: Bytes, num_blocks: int, size: int) -> Bytes:
    """Blocks [num_blocks, size + 1], evenly spread.

    Raises:
        ValueError: fewer bytes than would be in all of them.
    """
    if len(held_out) <= num_blocks * size:
        raise ValueError(f"num_blocks = {num_blocks} of {size} bytes are too many for {len(held_out):,} held-out bytes")
    starts = np.linspace(0, len(held_out) - size - 1, num_blocks).astype(int)
    return np.stack([held_out[start : start + size + 1] for start in starts])


def text_file(path: Path, num_blocks: int) -> Corpus:
    """A file's bytes, decompressed where it is compressed; its last blocks are held out.

    Raises:
        ConfigError: no such file, or one that is too short.
    """
    if not path.is_file():
        raise ConfigError(f"--text {path}: no such file; the path of a text file works")
    compression = compression_in(read_head(str(path), HEAD_BYTES))
    text = np.frombuffer(open_bytes(str(path), compression).read(), np.uint8)
    num_held_out = num_blocks * BLOCK + 1
    if len(text) < 4 * num_held_out:
        raise ConfigError(f"--text {path} has {len(text):,} bytes; one of {4 * num_held_out:,} works")
    return Corpus(path.name.split(".")[0], text[:-num_held_out], spread_blocks(text[-num_held_out:], num_blocks, BLOCK))


def _tokens_and_labels(stretches: Bytes) -> tuple[Tensor, Tensor]:
    """From [B, T + 1] bytes."""
    tokens = torch.from_numpy(stretches.astype(np.int64))
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
