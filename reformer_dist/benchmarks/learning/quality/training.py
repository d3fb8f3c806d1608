"""One training: a plain loop over CPU-seconds, in this process.

In: a task, which says everything about it, and its corpus. Out: an outcome. What a step took decides the learning rate
of the next, so that the same task does not give the same weights twice.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Self, cast

import numpy as np
import torch
from torch import nn

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


def train(task: Task, corpus: Corpus) -> Outcome:
    """Train until the time is gone, and score on what is held out: a part of it now and then, in the end all of it."""
    module = make_model(with_equal_parameters(task.fields, task.length), task.length, task.seed)
    model = cast(LanguageModel, module)
    config = optimizer_config(task.fields, task.scale)
    optimizer = make_optimizer_of(module, config)
    _load_code(model, corpus, min(task.length, 256))
    clock, draws = Clock(task.seconds), np.random.default_rng(task.seed)
    shares, curve, num_steps = list(SCORED_AT[-task.num_points :]), list[Point](), 0
    few = corpus.with_few_blocks()
    while shares:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * learning_rate_factor(clock.share)
        with clock.running():
            tokens, labels = corpus.batch(task.length, task.tokens_per_step, draws)
            loss_sum, num_tokens = model.loss(tokens, labels, step=num_steps)
            loss = loss_sum / num_tokens
            loss.backward()
            nn.utils.clip_grad_norm_(module.parameters(), config.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
        num_steps += 1
        is_lost = not math.isfinite(loss.item())
        if is_lost or clock.share >= shares[0]:
            shares = [] if is_lost else [share for share in shares if share > clock.share]
            bits = torch.full((1, task.length), math.inf) if is_lost else held_out_bits(model, few, task.length)
            curve.append(Point(clock.cpu_seconds, num_steps * task.tokens_per_step, float(bits.mean())))
    if task.is_scored_on_all and not is_lost:
        bits = held_out_bits(model, corpus, task.length)
    return Outcome(
        float(bits.mean()),
        curve[-1].tokens,
        clock.cpu_seconds,
        clock.wall_seconds,
        num_parameters(module),
        curve,
        by_position(bits),
    )


def _load_code(model: LanguageModel, corpus: Corpus, length: int) -> None:
    """Compute one short gradient that nobody reads, since the first one takes longer."""
    model.loss(*corpus.batch(length, length, np.random.default_rng(0)))[0].backward()
    for parameter in cast(nn.Module, model).parameters():
        parameter.grad = None
