"""One training: a plain loop over CPU-seconds, in this process.

In: a task, which says everything about it, and its corpus. Out: an outcome. What a step took decides the learning rate
of the next, so that the same task does not give the same weights twice.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple, Self, cast

import numpy as np
import torch
from torch import Tensor, nn

from reformer_dist.benchmarks.learning.quality.clock import Clock, learning_rate_factor
from reformer_dist.benchmarks.learning.quality.corpora import Corpus
from reformer_dist.benchmarks.learning.quality.recipes import (
    Fields,
    LanguageModel,
    make_model,
    make_optimizer_of,
    num_parameters,
    optimizer_config,
    with_equal_parameters,
)
from reformer_dist.benchmarks.learning.quality.scoring import PositionBits, by_position, held_out_bits

SCORED_AT = (0.1, 0.2, 0.35, 0.5, 0.7, 1.0)
"""Shares of the time after which held-out bits are computed; the clock stands still meanwhile."""


@dataclass(frozen=True)
class Task:
    """What a training is, in values that JSON has."""

    corpus: str
    """The corpus's name and digest."""
    length: int
    """Tokens of a sequence."""
    name: str
    """Of the variant or change."""
    fields: Fields
    """Its changes of the base."""
    seconds: float
    """CPU-seconds that it may take."""
    seed: int
    """Of the weights, rotations and stretches."""
    scale: float
    """Learning rates as a multiple of the fields'."""
    tokens_per_step: int
    """Tokens of a batch."""
    num_points: int = len(SCORED_AT)
    """How often it is scored on few held-out blocks; the last time at the end."""
    is_scored_on_all: bool = True
    """Whether it is scored on all held-out blocks in the end."""


class Point(NamedTuple):
    """A point of a learning curve."""

    cpu_seconds: float
    tokens: int
    bits: float


@dataclass(frozen=True)
class Outcome:
    """What came of a task."""

    bits: float
    """Held-out bits a byte at the end, on all blocks or few; infinite where the loss was not finite."""
    tokens: int
    """Tokens trained on."""
    cpu_seconds: float
    wall_seconds: float
    num_parameters: int
    curve: list[Point]
    positions: list[PositionBits]

    def to_json(self) -> dict[str, Any]:
        """Values that JSON has."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """What `to_json` made."""
        curve, positions = values["curve"], values["positions"]
        return cls(
            **{
                **values,
                "curve": [Point(*point) for point in curve],
                "positions": [PositionBits(*some) for some in positions],
            }
        )


class TimedTraining:
    """A model and its optimizer, and a clock that runs while a step is made."""

    def __init__(self, fields: Fields, length: int, seconds: float, seed: int, scale: float = 1.0) -> None:
        """Make the model of `recipes.py` that these fields say; the other arguments are as of `Task`."""
        self.module = make_model(with_equal_parameters(fields, length), length, seed)
        self.model = cast(LanguageModel, self.module)
        self.clock = Clock(seconds)
        self.num_steps = 0
        self._config = optimizer_config(fields, scale)
        self._optimizer = make_optimizer_of(self.module, self._config)

    def step(self, batch: Callable[[], tuple[Tensor, Tensor]]) -> float:
        """Draw tokens and labels [B, T] and learn from them; returns the mean loss of a label in nats."""
        for group in self._optimizer.param_groups:
            group["lr"] = group["peak_lr"] * learning_rate_factor(self.clock.share)
        with self.clock.running():
            loss_sum, num_tokens = self.model.loss(*batch(), step=self.num_steps)
            loss = loss_sum / num_tokens
            loss.backward()
            nn.utils.clip_grad_norm_(self.module.parameters(), self._config.max_grad_norm)
            self._optimizer.step()
            self._optimizer.zero_grad()
        self.num_steps += 1
        return loss.item()

    def load_code(self, tokens: Tensor, labels: Tensor) -> None:
        """Compute one gradient that nobody reads, since the first one takes longer."""
        self.model.loss(tokens, labels)[0].backward()
        self._optimizer.zero_grad()


def train(task: Task, corpus: Corpus) -> Outcome:
    """Train until the time is gone, and score on what is held out: a part of it now and then, in the end all of it."""
    training = TimedTraining(task.fields, task.length, task.seconds, task.seed, task.scale)
    short = min(task.length, 256)
    training.load_code(*corpus.batch(short, short, np.random.default_rng(0)))
    clock, draws = training.clock, np.random.default_rng(task.seed)
    shares, curve, few = list(SCORED_AT[-task.num_points :]), list[Point](), corpus.with_few_blocks()
    while shares:
        is_lost = not math.isfinite(training.step(partial(corpus.batch, task.length, task.tokens_per_step, draws)))
        if is_lost or clock.share >= shares[0]:
            shares = [] if is_lost else [share for share in shares if share > clock.share]
            bits = (
                torch.full((1, task.length), math.inf) if is_lost else held_out_bits(training.model, few, task.length)
            )
            tokens = training.num_steps * task.tokens_per_step
            curve.append(Point(clock.cpu_seconds, tokens, float(bits.mean())))
    if task.is_scored_on_all and not is_lost:
        bits = held_out_bits(training.model, corpus, task.length)
    return Outcome(
        float(bits.mean()),
        curve[-1].tokens,
        clock.cpu_seconds,
        clock.wall_seconds,
        num_parameters(training.module),
        curve,
        by_position(bits),
    )
