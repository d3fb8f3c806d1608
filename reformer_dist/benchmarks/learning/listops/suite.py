"""ListOps of Long Range Arena: variants of the quality suite, each trained for the same CPU-seconds.

In: a size. Out: the share of held-out expressions whose value each variant says, in a table and a CSV file. New expressions
at every step; a finished training is a row of the file and is not repeated.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from reformer_dist.benchmarks.learning.book import Book, Row
from reformer_dist.benchmarks.learning.listops.task import (
    LONGEST,
    SHORTEST,
    Examples,
    Expression,
    examples,
    long_expression,
)
from reformer_dist.benchmarks.learning.quality.recipes import VARIANTS, LanguageModel
from reformer_dist.benchmarks.learning.quality.training import TimedTraining

PUBLISHED = "Tay et al. 2020, 5,000 steps of 32: Reformer 37.27, Transformer 36.37"
_HELD_OUT = 2**31
"""The seed of the held-out expressions, which no training draws from."""
_AT_A_TIME = 8
"""Expressions that are answered at a time."""


@dataclass(frozen=True)
class Size:
    """How long each variant is trained, and on what."""

    seconds: float
    """CPU-seconds."""
    held_out: int
    """Expressions that are asked."""
    batch_size: int = 8
    """Expressions of a step."""
    shortest: int = SHORTEST
    """Tokens that an expression has at least."""
    longest: int = LONGEST
    """Tokens that it has at most."""
    seeds: tuple[int, ...] = (0,)
    """Of weights, rotations and expressions."""


SIZES = {
    "small": Size(seconds=60, held_out=200, shortest=50, longest=199, batch_size=32),
    "paper": Size(seconds=600, held_out=2000),
}


@dataclass(frozen=True)
class Cell:
    """What is trained."""

    variant: str
    seed: int
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    accuracy: float
    """Share of the held-out expressions whose value is the likeliest token."""
    steps: int
    tokens: int
    """Trained on, padding left out."""


def run(size_name: Literal["small", "paper"], output: Path) -> None:
    """Train what listops-SIZE.csv in `output` does not have yet, on one thread; print the table."""
    torch.set_num_threads(1)
    size, book = SIZES[size_name], Book(output / f"listops-{size_name}.csv", Cell, Outcome)
    held_out = draw(size, size.held_out, random.Random(_HELD_OUT))
    for seed in size.seeds:
        for variant in VARIANTS:
            cell = Cell(variant, seed, size.seconds)
            if not book.has(cell):
                book.add(cell, train(cell, size, held_out))
                print(f"{variant}, seed {seed}: {book.rows[-1].outcome.accuracy:.1%}", flush=True)
    print(table(book.rows, size, held_out))
    print(book.path)


def table(rows: Sequence[Row[Cell, Outcome]], size: Size, held_out: Sequence[Expression]) -> str:
    """Text: accuracy in percent and what it took, beside the commonest value and the published figures."""
    title = (
        f"ListOps, {size.shortest} to {size.longest} tokens, {size.seconds:g} CPU-s each, {size.held_out} expressions"
    )
    lines = [title, f"{'':<16}{'seed':>5}{'right':>8}{'steps':>8}{'M tokens':>10}"]
    for row in rows:
        found, cell = row.outcome, row.cell
        lines.append(
            f"{cell.variant:<16}{cell.seed:>5}{found.accuracy:>8.1%}{found.steps:>8,}{found.tokens / 1e6:>10.2f}"
        )
    values = [drawn.value for drawn in held_out]
    commonest = max(values.count(value) for value in set(values)) / len(values)
    return "\n".join([*lines, f"always the commonest value: {commonest:.1%}", PUBLISHED])


def draw(size: Size, number: int, draws: random.Random) -> list[Expression]:
    """Expressions of the size's lengths."""
    return [long_expression(draws, size.shortest, size.longest) for _ in range(number)]


def train(cell: Cell, size: Size, held_out: Sequence[Expression]) -> Outcome:
    """Train a variant until its time is gone; drawing expressions does not count."""
    training = TimedTraining(VARIANTS[cell.variant], size.longest + 1, cell.seconds, cell.seed)
    draws, num_tokens = random.Random(cell.seed), 0
    training.load_code(*_batch(examples(held_out[:1])))
    while training.clock.share < 1:
        drawn = draw(size, size.batch_size, draws)
        num_tokens += sum(len(one.tokens) for one in drawn)
        training.step(partial(_batch, examples(drawn)))
    return Outcome(accuracy(training.model, held_out), training.num_steps, num_tokens)


def _batch(drawn: Examples) -> tuple[Tensor, Tensor]:
    return drawn.tokens_BT, drawn.labels_BT


@torch.no_grad()
def accuracy(model: LanguageModel, expressions: Sequence[Expression]) -> float:
    """Share of the expressions at whose end their value is the likeliest token."""
    model.eval()
    right = 0
    for first in range(0, len(expressions), _AT_A_TIME):
        drawn = examples(expressions[first : first + _AT_A_TIME])
        said_BT = model(drawn.tokens_BT).argmax(-1)
        right += int((said_BT == drawn.labels_BT).sum())
    model.train()
    return right / len(expressions)
