"""What each part of a recipe is worth: one change at a time, every training for the same CPU-seconds.

In: a size and a corpus. Out: a table and a CSV file of held-out bits a byte and tokens reached. It can be ended and started
again, as `--suite quality`.
"""

from pathlib import Path
from typing import Literal

import torch

from reformer_dist.benchmarks.learning.quality import report
from reformer_dist.benchmarks.learning.quality.corpora import standard_library, text_file
from reformer_dist.benchmarks.learning.quality.recipes import CHANGES, named
from reformer_dist.benchmarks.learning.quality.results import Results
from reformer_dist.benchmarks.learning.quality.sizes import ABLATION_LENGTH, SIZES
from reformer_dist.benchmarks.learning.quality.training import Outcome, Task


def run(
    size_name: Literal["small", "paper"],
    output: Path,
    text: Path | None = None,
    seeds: tuple[int, ...] = (),
    seconds: float | None = None,
    only: tuple[str, ...] = (),
) -> None:
    """Train the base and all changes with one seed, then with the next; arguments as of `--suite quality`, and `only`.

    Args:
        size_name: length, time and seeds.
        output: a folder, made if need be.
        text: a file to learn, its end held out; by default the standard library's source.
        seeds: instead of the size's.
        seconds: CPU-seconds of a training, instead of the size's.
        only: names of changes; by default all.

    Writes ablation-SIZE-CORPUS.jsonl and ablation-SIZE-CORPUS.csv into `output`, and prints the table at the end.
    Changes have the base's learning rates unless they name others.
    """
    torch.set_num_threads(1)
    size, length = SIZES[size_name], ABLATION_LENGTH[size_name]
    seconds = seconds or size.seconds
    changes = named(CHANGES, only)
    corpus = text_file(text, size.held_out_blocks) if text else standard_library(size.held_out_blocks)
    name = f"ablation-{size_name}-{corpus.name}"
    results = Results(output / f"{name}.jsonl")
    rows: list[tuple[Task, Outcome]] = []
    for seed in seeds or size.seeds:
        for change, fields in changes.items():
            corpus_name = f"{corpus.name} {corpus.digest}"
            task = Task(corpus_name, length, change, fields, seconds, seed, 1.0, size.tokens_per_step(length))
            rows.append((task, results.finished(task, corpus)))
            path = report.write_table(output, name, rows)
    first = next(iter(changes))
    print(f"{corpus.name}, {length:,} tokens, {seconds:g} CPU-s a training; differences are against {first}")
    print(report.table(rows, baseline=first))
    print(path)
