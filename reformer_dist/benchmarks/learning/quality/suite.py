"""Which attention learns most in the same time? Variants at several lengths, each at its own learning rate.

In: a size and a corpus. Out: tables, CSV files and pictures of held-out bits a byte over CPU-seconds, over tokens, and by
position in the sequence. It can be ended and started again: trainings that were finished are not repeated.
"""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from reformer_dist.benchmarks.learning.quality import report
from reformer_dist.benchmarks.learning.quality.corpora import Corpus, standard_library, text_file
from reformer_dist.benchmarks.learning.quality.recipes import VARIANTS, named
from reformer_dist.benchmarks.learning.quality.results import Results
from reformer_dist.benchmarks.learning.quality.sizes import SIZES, Size
from reformer_dist.benchmarks.learning.quality.training import Outcome, Task

MOST_TRIED = 6
"""Learning rates that are tried at most, about."""


def run(
    size_name: Literal["small", "paper"],
    output: Path,
    text: Path | None = None,
    seeds: tuple[int, ...] = (),
    seconds: float | None = None,
    only: tuple[str, ...] = (),
    lengths: tuple[int, ...] = (),
) -> None:
    """Train what is not yet trained, and after each length write the report of all that is.

    Writes quality-SIZE-CORPUS.jsonl, CSV files and pictures into `output`, and prints the tables at the end.

    Args:
        size_name: lengths, times and seeds.
        output: a folder, made if need be.
        text: a file to learn, its end held out; by default the standard library's source.
        seeds: instead of the size's.
        seconds: CPU-seconds of a training, instead of the size's; those that choose a learning rate change with them.
        only: names of variants; by default all.
        lengths: instead of the size's.
    """
    torch.set_num_threads(1)
    size = SIZES[size_name]
    if seconds is not None:
        size = replace(size, seconds=seconds, tuning_seconds=size.tuning_seconds * seconds / size.seconds)
    variants = named(VARIANTS, only)
    corpus = text_file(text, size.held_out_blocks) if text else standard_library(size.held_out_blocks)
    name = f"quality-{size_name}-{corpus.name}"
    results = Results(output / f"{name}.jsonl")
    rows: list[tuple[Task, Outcome]] = []
    for seed in seeds or size.seeds:
        for length in lengths or size.lengths:
            for variant in variants:
                task = tuned(size, corpus, length, variant, seed, results)
                rows.append((task, results.finished(task, corpus)))
            paths = report.write(output, name, rows)
    print(report.tables(rows, corpus.name))
    print(*paths, sep="\n")


def tuned(size: Size, corpus: Corpus, length: int, variant: str, seed: int, results: Results) -> Task:
    """A variant's task at its best learning rate: doubled or halved for as long as that is better.

    The trainings that choose have the size's first seed, and are done if need be. As long as the others, they are such.
    """
    found: dict[float, float] = {}
    untried = [1.0]
    while untried and len(found) < MOST_TRIED:
        for scale in untried:
            task = make_task(size, corpus, length, variant, size.seeds[0], scale)
            if size.tuning_seconds < size.seconds:
                task = replace(task, seconds=size.tuning_seconds, num_points=1, is_scored_on_all=False)
            found[scale] = results.finished(task, corpus).bits
        best = min(found, key=found.__getitem__)
        untried = [scale for scale in (best / 2, best * 2) if scale not in found]
    return make_task(size, corpus, length, variant, seed, best)


def make_task(size: Size, corpus: Corpus, length: int, variant: str, seed: int, scale: float) -> Task:
    """A variant's training for all of the size's time."""
    return Task(
        corpus=f"{corpus.name} {corpus.digest}",
        length=length,
        name=variant,
        fields=VARIANTS[variant],
        seconds=size.seconds,
        seed=seed,
        scale=scale,
        tokens_per_step=size.tokens_per_step(length),
    )
