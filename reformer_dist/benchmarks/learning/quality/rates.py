"""Does a learning rate carry over? Models of other widths and depths, and batches of other sizes, at multiples of one rate.

In: a size and a corpus. Out: a table and a CSV file of held-out bits a byte, a line for each shape, a column for each
multiple of the recipe's rates. It can be ended and started again, as `--suite quality`.
"""

from pathlib import Path
from typing import Literal, NamedTuple

import torch

from reformer_dist.benchmarks.learning.quality import report
from reformer_dist.benchmarks.learning.quality.corpora import standard_library, text_file
from reformer_dist.benchmarks.learning.quality.recipes import FEED_FORWARD_DIM, Fields, named
from reformer_dist.benchmarks.learning.quality.results import Results
from reformer_dist.benchmarks.learning.quality.sizes import SIZES
from reformer_dist.benchmarks.learning.quality.training import Outcome, Task

LENGTH = 1024
"""Tokens of a sequence, and of the smallest batch."""
SCALES = (0.5, 1.0, 2.0)
"""Multiples of the recipe's learning rates."""


class Shape(NamedTuple):
    """What is trained."""

    fields: Fields
    tokens_per_step: int = 4096
    """Of a batch."""


def of_width(width: int) -> Shape:
    """The base with another width, and feed-forward layers in proportion."""
    return Shape({"model.embed_dim": width, "model.feed_forward_dim": 4 * width})


def of_depth(pairs: int) -> Shape:
    """The base with so many pairs of a local and an LSH layer."""
    return Shape({"model.layers": ",".join(["local,lsh"] * pairs), "model.feed_forward_dim": FEED_FORWARD_DIM})


SHAPES: dict[str, Shape] = {
    "base": Shape({}),
    "width 64": of_width(64),
    "width 256": of_width(256),
    "2 layers": of_depth(1),
    "8 layers": of_depth(4),
    "batches of 1,024 tokens": Shape({}, 1024),
    "batches of 16,384 tokens": Shape({}, 16_384),
}
"""By name, the base first: width 128, four layers, batches of 4,096 tokens."""


def run(
    size_name: Literal["small", "paper"],
    output: Path,
    text: Path | None = None,
    seeds: tuple[int, ...] = (),
    seconds: float | None = None,
    only: tuple[str, ...] = (),
) -> None:
    """Train each shape with each multiple; arguments as of `--suite quality`, and `only` names shapes.

    Writes rates-SIZE-CORPUS.jsonl and rates-SIZE-CORPUS.csv into `output`, and prints the table at the end.
    """
    torch.set_num_threads(1)
    size = SIZES[size_name]
    seconds = seconds or size.seconds
    corpus = text_file(text, size.held_out_blocks) if text else standard_library(size.held_out_blocks)
    name = f"rates-{size_name}-{corpus.name}"
    results = Results(output / f"{name}.jsonl")
    rows: list[tuple[Task, Outcome]] = []
    for seed in seeds or size.seeds[:1]:
        for shape_name, shape in named(SHAPES, only).items():
            for scale in SCALES:
                corpus_name = f"{corpus.name} {corpus.digest}"
                label = f"{shape_name}, rate x {scale:g}"
                task = Task(corpus_name, LENGTH, label, shape.fields, seconds, seed, scale, shape.tokens_per_step)
                rows.append((task, results.finished(task, corpus)))
            path = report.write_table(output, name, rows)
    print(f"{corpus.name}, {LENGTH:,} tokens, {seconds:g} CPU-s a training; differences are against the base at x 1")
    print(report.table(rows, baseline="base, rate x 1"))
    print(path)
