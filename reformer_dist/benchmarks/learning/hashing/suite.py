"""Which hashing finds most for the same price? Of one trained model: attention mass caught, and bits, by other hashings.

In: a size and a corpus. Out: two tables and CSV files. The first shows how much of its exact attention a query catches among
as many keys as the model lets it see, by ways to choose them; the second what held-out bits become when rounds, windows or
buckets of the trained model are others. What each costs or gains in training is for `--suite ablation`.
"""

import csv
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from reformer_dist.benchmarks.learning.hashing.looking import captured
from reformer_dist.benchmarks.learning.hashing.ways import Choice, choices, table
from reformer_dist.benchmarks.learning.quality.corpora import Corpus, standard_library, text_file
from reformer_dist.benchmarks.learning.quality.scoring import held_out_bits
from reformer_dist.benchmarks.learning.quality.training import TimedTraining
from reformer_dist.model.reformer import ReformerLM


@dataclass(frozen=True)
class Size:
    """What is trained and looked at."""

    length: int
    """Tokens of a sequence."""
    seconds: float
    """CPU-seconds of the training."""
    sequences: int
    """Training sequences that hashes are fitted to, and held-out ones that are looked at."""
    queries: int
    """Queries of a sequence and head that are looked at."""
    held_out_blocks: int
    """Of the corpus; every fourth is scored."""


SIZES = {
    "small": Size(length=1024, seconds=40, sequences=2, queries=64, held_out_blocks=16),
    "paper": Size(length=4096, seconds=150, sequences=4, queries=128, held_out_blocks=16),
}
EXACT = "exact: one bucket, all keys"
EVALUATED: Mapping[str, Mapping[str, float]] = {
    "as trained": {},
    "1 round": {"num_hashes": 1},
    "4 rounds": {"num_hashes": 4},
    "8 rounds": {"num_hashes": 8},
    "16 rounds": {"num_hashes": 16},
    "1 round, window x 2": {"num_hashes": 1, "lsh_window": 2},
    "4 rounds, window / 2": {"num_hashes": 4, "lsh_window": 1 / 2},
    "8 rounds, window / 4": {"num_hashes": 8, "lsh_window": 1 / 4},
    "window / 2": {"lsh_window": 1 / 2},
    "window x 2": {"lsh_window": 2},
    "buckets / 2": {"num_buckets": 1 / 2},
    "buckets x 4": {"num_buckets": 4},
}
"""Settings of the trained weights' LSH layers: rounds, and how many times the window and the buckets of training."""


def run(
    size_name: Literal["small", "paper"], output: Path, text: Path | None = None, seeds: tuple[int, ...] = ()
) -> None:
    """Train the quality suite's base on one thread, and print what other hashings catch and lead to.

    Writes hashing-SIZE-CORPUS-caught.csv and hashing-SIZE-CORPUS-bits.csv into `output`.

    Args:
        size_name: what is trained and looked at.
        output: a folder, made if need be.
        text: a file to learn, its end held out; by default the standard library's source.
        seeds: the first is the training's; 0 by default.
    """
    torch.set_num_threads(1)
    size, seed = SIZES[size_name], next(iter(seeds), 0)
    corpus = text_file(text, size.held_out_blocks) if text else standard_library(size.held_out_blocks)
    model = trained(size, corpus, seed)
    draws, length = np.random.default_rng(seed + 1), size.length
    fitted = captured(model, [corpus.batch(length, length, draws)[0] for _ in range(size.sequences)])
    held_out = corpus.held_out_sequences(length)[0]
    looked_at = captured(model, held_out[:: len(held_out) // size.sequences].split(1))
    found = [
        choice
        for layer in looked_at
        for choice in choices(model.config, layer, fitted[layer], looked_at[layer], size.queries)
    ]
    print(f"{corpus.name}, {length:,} tokens, {size.seconds:g} CPU-s: exact attention mass caught, and keys seen")
    print(table(found))
    print("\nheld-out bits a byte of the same weights by settings of LSH layers")
    bits = []
    for label, score in evaluations(model, size, corpus):
        bits.append((label, score))
        print(f"{label:<28}{score:>9.3f}", flush=True)
    name = f"hashing-{size_name}-{corpus.name}"
    _write(output / f"{name}-caught.csv", Choice._fields, found)
    _write(output / f"{name}-bits.csv", ("setting", "bits"), bits)


def trained(size: Size, corpus: Corpus, seed: int) -> ReformerLM:
    """The quality suite's base after so many CPU-seconds."""
    training, draws = TimedTraining({}, size.length, size.seconds, seed), np.random.default_rng(seed)
    training.load_code(*corpus.batch(256, 256, np.random.default_rng(0)))
    while training.clock.share < 1:
        training.step(partial(corpus.batch, size.length, max(4096, size.length), draws))
    assert isinstance(training.module, ReformerLM)
    return training.module.eval()


def evaluations(model: ReformerLM, size: Size, corpus: Corpus) -> Iterator[tuple[str, float]]:
    """Held-out bits of the trained weights under the settings of EVALUATED, and in exact attention, by label."""
    few, trained_with = corpus.with_few_blocks(), model.config
    buckets = math.prod(trained_with.bucket_factors)
    unit = {"num_hashes": 1, "lsh_window": trained_with.lsh_window, "num_buckets": buckets}

    def score(fields: Mapping[str, int]) -> float:
        return float(held_out_bits(model.with_settings(**fields), few, size.length).mean())

    for label, settings in EVALUATED.items():
        yield label, score({name: int(times * unit[name]) for name, times in settings.items()})
    yield EXACT, score({"num_hashes": 1, "num_buckets": 1, "lsh_window": size.length})


def _write(path: Path, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    print(path)
