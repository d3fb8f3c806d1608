"""What compressors and counting come to on the bytes that `--suite quality` holds out.

In: a size, which says how much is held out, and a corpus. Out: a table and a CSV file. A compressor is asked for
the held-out bytes after all that is trained on: the size of both together less the size of the latter. What it keeps in view
is its own: bzip2 900 kB, xz and zstd here everything.
"""

import bz2
import csv
import lzma
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from reformer_dist.benchmarks.learning.quality.corpora import Bytes, Corpus, standard_library, text_file
from reformer_dist.benchmarks.learning.quality.sizes import SIZES

COMPRESSORS: Mapping[str, Callable[[bytes], int]] = {
    "bzip2 -9": lambda data: len(bz2.compress(data, 9)),
    "xz -9e": lambda data: len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)),
    "zstd -19": lambda data: len(pa.Codec("zstd", compression_level=19).compress(data, asbytes=True)),
}
"""Bytes that each makes of some."""


def run(size_name: Literal["small", "paper"], output: Path, text: Path | None = None) -> None:
    """Print the table and write compressors-SIZE-CORPUS.csv into `output`; `text` is as of `--suite quality`."""
    num_blocks = SIZES[size_name].held_out_blocks
    corpus = text_file(text, num_blocks) if text else standard_library(num_blocks)
    found = bits(corpus)
    output.mkdir(parents=True, exist_ok=True)
    path = output / f"compressors-{size_name}-{corpus.name}.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("what", "held-out bits a byte", "bits a byte of everything"))
        writer.writerows((name, *both) for name, both in found.items())
    print(f"{corpus.name}: bits a byte of {corpus.held_out[:, 1:].size:,} held-out bytes, and of everything")
    for name, (held_out, everything) in found.items():
        print(f"{name:<12}{held_out:>8.3f}{everything:>8.3f}")
    print(path)


def bits(corpus: Corpus) -> dict[str, tuple[float, float]]:
    """By name, bits a byte of what is held out, after what is trained on, and of everything."""
    training, held_out = corpus.training.tobytes(), corpus.held_out[:, 1:].tobytes()
    everything = training + held_out
    found = {"unigram": (_unigram(corpus.training, corpus.held_out[:, 1:]), _unigram(*2 * (_bytes(everything),)))}
    for name, size_of in COMPRESSORS.items():
        whole, first = size_of(everything), size_of(training)
        found[name] = (8 * (whole - first) / len(held_out), 8 * whole / len(everything))
    return found


def _bytes(data: bytes) -> Bytes:
    return np.frombuffer(data, np.uint8)


def _unigram(counted: Bytes, scored: Bytes) -> float:
    """Bits a byte by the frequencies of `counted`, where each of 256 bytes counts once more."""
    counts = np.bincount(counted, minlength=256) + 1
    numbers = np.bincount(scored.ravel(), minlength=256)
    return float(-(numbers * np.log(counts / counts.sum())).sum() / numbers.sum() / math.log(2))
