"""Training one cell of the recall table: a variant, a recipe, a length, a width, a learning rate and a seed.

In: a cell and how long to train. Out: its accuracy on held-out sequences, and what it took. The trainer's
optimizer, new sequences at every step, in this process.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from reformer_dist.benchmarks.learning.recall.model import (
    ScoredLM,
    keys_of_exact,
    make_optimizer,
    model_config,
    watched,
)
from reformer_dist.benchmarks.learning.recall.mqar_task import VOCABULARY, Examples, mqar_examples
from reformer_dist.model.attention.lsh.hash_health import metrics, observed

ENOUGH = 0.99
"""Held-out accuracy at which a training stops, and its learning-rate grid with it."""
_HELD_OUT = 2**31
"""The seed of the held-out sequences, which no training draws from."""


@dataclass(frozen=True)
class Cell:
    """What is trained; with the other cells of the same `place` it makes one entry of the table, the best of them."""

    recipe: str
    variant: str
    length: int
    pairs: int
    width: int
    learning_rate: float
    seed: int

    @property
    def place(self) -> tuple[str, str, int, int, int, int]:
        """All but the learning rate."""
        return self.recipe, self.variant, self.length, self.pairs, self.width, self.seed


@dataclass(frozen=True)
class Training:
    """How long a cell is trained, and how it is judged."""

    batch_size: int
    """Sequences of a step."""
    steps: int
    """Steps at most; the learning rate falls to zero over them, as half a cosine."""
    warm_up: int
    """Steps in which it grows linearly before."""
    evaluate_every: int
    """Steps between two looks at the held-out sequences."""
    held_out: int
    """Held-out sequences."""
    vocabulary: int = VOCABULARY
    """Different tokens."""


@dataclass(frozen=True)
class Outcome:
    """What became of a cell."""

    accuracy: float
    """Share of the held-out queries whose likeliest token is their value; at the last look."""
    loss: float
    """Mean loss of the steps since the look before, in nats."""
    steps: int
    """Steps that were trained."""
    cpu_seconds: float
    """Of the training, looks included."""
    keys_seen: float
    """Different keys that a token sees on average in a layer; of LSH what `hash_health` finds in a held-out sequence."""
    value_seen: float
    """Share of the held-out queries that see their value in the last layer, if that is LSH; else nan."""


def train(cell: Cell, training: Training, tell: Callable[[str], None] = print) -> Outcome:
    """Train a cell until it has learnt or its steps are over; `tell` gets a line at every look."""
    start = time.process_time()
    model = ScoredLM(model_config(cell.variant, cell.recipe, cell.length, cell.width, training.vocabulary, cell.seed))
    optimizer = make_optimizer(model, cell.recipe, cell.learning_rate)
    generator = torch.Generator().manual_seed(cell.seed)
    held_out = _draw(cell, training, training.held_out, torch.Generator().manual_seed(_HELD_OUT))
    total, accuracy, loss, step = 0.0, 0.0, math.nan, 0
    for step in range(1, training.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * rate_at(step, training.steps, training.warm_up)
        examples = _draw(cell, training, training.batch_size, generator)
        logits_BQV = model.logits_at(examples.tokens_BT, examples.queries_BQ, step)
        step_loss = cross_entropy(logits_BQV.flatten(0, 1), examples.answers_BQ.flatten())
        optimizer.zero_grad()
        step_loss.backward()
        optimizer.step()
        total += step_loss.item()
        if step % training.evaluate_every == 0 or step == training.steps:
            loss, total = total / ((step - 1) % training.evaluate_every + 1), 0.0
            accuracy = accuracy_of(model, held_out)
            tell(f"  step {step}: loss {loss:.3f}, accuracy {accuracy:.1%}, {time.process_time() - start:.0f} CPU-s")
            if accuracy >= ENOUGH:
                break
    return Outcome(accuracy, loss, step, time.process_time() - start, *_look(model, held_out))


def rate_at(step: int, steps: int, warm_up: int) -> float:
    """The share of the learning rate that a step (from 1) is taken with: half a cosine after a linear warm-up."""
    if step <= warm_up:
        return step / warm_up
    return (1 + math.cos(math.pi * (step - warm_up) / (steps + 1 - warm_up))) / 2


@torch.no_grad()
def accuracy_of(model: ScoredLM, examples: Examples, rows: int = 64) -> float:
    """Share of the queries whose likeliest token is their value; `rows` sequences are read at a time."""
    training, right = model.training, 0
    model.eval()
    parts = (x.split(rows) for x in (examples.tokens_BT, examples.queries_BQ, examples.answers_BQ))
    for tokens_BT, queries_BQ, answers_BQ in zip(*parts, strict=True):
        right += int((model.logits_at(tokens_BT, queries_BQ).argmax(-1) == answers_BQ).sum())
    model.train(training)
    return right / examples.answers_BQ.numel()


def _draw(cell: Cell, training: Training, number: int, generator: torch.Generator) -> Examples:
    return mqar_examples(number, cell.length, cell.pairs, generator, training.vocabulary)


@torch.no_grad()
def _look(model: ScoredLM, examples: Examples) -> tuple[float, float]:
    """`keys_seen` and `value_seen` of an Outcome, on some of the sequences."""
    model.eval()
    tokens_BT, queries_BQ = examples.tokens_BT[:32], examples.queries_BQ[:32]
    values_BQ = (2 * torch.arange(queries_BQ.shape[1]) + 1).expand_as(queries_BQ)
    with observed(model) as health:
        model.logits_at(tokens_BT[:1], queries_BQ[:1])
    with watched(model, queries_BQ, values_BQ) as sight:
        model.logits_at(tokens_BT, queries_BQ)
    last = len(model.config.layers) - 1
    keys = metrics(health.sums()).get("hashing/keys_seen") or keys_of_exact(model.config)
    return keys, sight.by_layer.get(last, math.nan)
