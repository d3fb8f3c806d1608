"""The duplication task with other attention than ours: what their speed costs, or does not cost, in quality.

In: a size. Out: a table of held-out accuracy, steps and CPU-seconds, and two CSV files.

Model, optimizer and schedule are those of `duplication.py`, but for the attention layer. RACE is no layer of the product, so
that all of them are trained in this process, on new words at every step, by one thread.

Legend: B batch, T tokens, E model dimension.
"""

import csv
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from reformer_dist.benchmarks.learning.duplication import SEPARATOR, SYMBOLS, model_fields, optimizer_fields
from reformer_dist.benchmarks.learning.duplication_report import LEARNED
from reformer_dist.benchmarks.learning.duplication_task import SIZES, Size, attention
from reformer_dist.benchmarks.learning.quality.recipes import make_optimizer_of
from reformer_dist.benchmarks.race import RaceAttention
from reformer_dist.config import ModelConfig, OptimizerConfig
from reformer_dist.model.context import Context
from reformer_dist.model.keeping import Kept
from reformer_dist.model.layers.output import IGNORED
from reformer_dist.model.reformer import ReformerLM
from reformer_dist.model.reversible.layer import Layer
from reformer_dist.model.reversible.undoing import Addition, Leaves
from reformer_dist.training.engine.optimizer import set_learning_rates

EXACT, LSH = "exact", "LSH-4"
RACE: Mapping[str, tuple[int, int]] = {
    "RACE, 2 tables of 4": (2, 2),
    "RACE, 4 tables of 16": (4, 4),
    "RACE, 4 tables of 64": (4, 6),
}
"""Tables, and hyperplanes of each. The paper's smallest and largest, and one whose hashes are sharper."""
VARIANTS = (EXACT, LSH, *RACE)
_HELD_OUT = 2**31
"""The seed of the held-out words, which no training draws from."""


class Point(NamedTuple):
    """A point of a learning curve; the loss is the last step's, in nats a scored token."""

    length: int
    variant: str
    seed: int
    step: int
    loss: float
    accuracy: float
    cpu_seconds: float


def run(
    size_name: Literal["small", "paper"],
    output: Path,
    *,
    lengths: Sequence[int] | None = None,
    seeds: Sequence[int] | None = None,
) -> None:
    """Print the table; write duplication_peers-SIZE.csv and duplication_peers-SIZE-curves.csv into `output`.

    Args:
        size_name: which size.
        output: a folder, made if need be.
        lengths: tokens of a sequence instead of the size's, multiples of it; windows grow with them, so that buckets stay.
        seeds: instead of the size's.

    """
    torch.set_num_threads(1)
    size, points = SIZES[size_name], list[Point]()
    size = replace(size, seeds=tuple(seeds or size.seeds))
    for length in lengths or (size.length,):
        longer = replace(size, length=length, keys=size.keys * length // size.length)
        for seed in size.seeds:
            for variant in VARIANTS:
                points += train(longer, variant, seed)
                last = points[-1]
                told = f"{length} tokens, seed {seed}, {variant}: accuracy {last.accuracy:.1%}"
                print(f"{told} after {last.cpu_seconds:.0f} CPU-s", flush=True)
    rows = summary(points)
    print(f"\nDuplication, {size.steps} steps, {len(size.seeds)} seed(s)\n{table(rows)}")
    output.mkdir(parents=True, exist_ok=True)
    found: dict[str, tuple[type[NamedTuple], Sequence[Any]]] = {"": (Row, rows), "-curves": (Point, points)}
    for name, (kind, values) in found.items():
        path = output / f"duplication_peers-{size_name}{name}.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([kind._fields, *values])
        print(path)


class RaceLayer(Layer):
    """RACE attention as a layer of a stack that plain autograd differentiates."""

    def __init__(self, attention: RaceAttention) -> None:
        super().__init__()
        self.attention = attention

    def _contribution(self, x_BTE: Tensor, context: Context, found: Any, kept: Kept | None) -> tuple[Tensor, None]:
        """See `Layer`; a sequence is one document."""
        assert context.documents_BT is None
        return self.attention(x_BTE), None

    def _undo(
        self, x_BTE: Tensor, context: Context, found: Any, addition: Addition, kept: Kept | None, leaves: Leaves
    ) -> None:
        """See `Layer`."""
        raise NotImplementedError("model.reversible is false here, so nothing is undone")


def make_model(size: Size, variant: str, seed: int) -> ReformerLM:
    """The model of a variant; RACE takes the attention layer's place, with weights as large at first."""
    kinds = {EXACT: {"layers": ("full",)}, LSH: attention(size, "window", 4)}
    config = ModelConfig(**model_fields(size, seed, kinds.get(variant, {"layers": ("full",), "reversible": False})))
    model = ReformerLM(config)
    if variant in RACE:
        num_tables, num_planes = RACE[variant]
        blocks: Any = model.stack.blocks
        for index, block in enumerate(blocks):
            peer = RaceAttention(
                size.embed_dim, size.num_heads, num_tables=num_tables, num_planes=num_planes, seed=seed + index
            )
            with torch.no_grad():
                peer.output_weight.mul_(config.output_scale / math.sqrt(2 * len(config.layers)))
            block.attention = RaceLayer(peer)
    return model


def train(size: Size, variant: str, seed: int) -> list[Point]:
    """Train a variant for the steps of a size; returns the curve. Its CPU-seconds are those of the steps alone."""
    model = make_model(size, variant, seed)
    config = OptimizerConfig(**optimizer_fields(size))
    optimizer = make_optimizer_of(model, config)
    draws, held_out = np.random.default_rng(seed), words(size.test_sequences, size, np.random.default_rng(_HELD_OUT))
    points, cpu_seconds = list[Point](), 0.0
    for step in range(size.steps):
        tokens_BT, labels_BT = words(size.batch_size, size, draws)
        start = time.process_time()
        set_learning_rates(optimizer, config, step, size.steps)
        loss_sum, num_tokens = model.loss(tokens_BT, labels_BT, step=step)
        optimizer.zero_grad()
        (loss_sum / num_tokens).backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        optimizer.step()
        cpu_seconds += time.process_time() - start
        if (step + 1) % size.evaluate_every == 0:
            loss = float(loss_sum.detach() / num_tokens)
            accuracy = accuracy_of(model, *held_out)
            points.append(Point(size.length, variant, seed, step + 1, loss, accuracy, cpu_seconds))
    return points


def words(number: int, size: Size, draws: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Tokens 0 w SEPARATOR w with random w, and labels of the second w alone; both int64 [B, T]."""
    half = size.length // 2
    words_BW = torch.from_numpy(draws.integers(1, 1 + len(SYMBOLS), size=(number, half - 1)))
    tokens_BT = torch.zeros(number, size.length, dtype=torch.int64)
    tokens_BT[:, half] = ord(SEPARATOR)
    tokens_BT[:, 1:half] = tokens_BT[:, half + 1 :] = words_BW
    labels_BT = torch.full_like(tokens_BT, IGNORED)
    labels_BT[:, half:-1] = words_BW
    return tokens_BT, labels_BT


@torch.no_grad()
def accuracy_of(model: ReformerLM, tokens_BT: Tensor, labels_BT: Tensor) -> float:
    """Share of the labels that are the likeliest token."""
    training = model.training
    model.eval()
    is_right = model(tokens_BT).argmax(-1) == labels_BT
    model.train(training)
    return is_right[labels_BT != IGNORED].double().mean().item()


class Row(NamedTuple):
    """A line of the table: over the seeds, means, and the median of steps."""

    length: int
    variant: str
    accuracy: float
    steps: float
    """Until `LEARNED` of the held-out symbols are right; infinite where the median seed did not get there."""
    cpu_seconds: float


def summary(points: Iterable[Point]) -> list[Row]:
    """A row for each length and variant, of the curves of all seeds."""
    curves: dict[tuple[int, str], dict[int, list[Point]]] = {}
    for point in points:
        curves.setdefault((point.length, point.variant), {}).setdefault(point.seed, []).append(point)
    rows = []
    for (length, variant), by_seed in curves.items():
        steps = [next((p.step for p in curve if p.accuracy >= LEARNED), math.inf) for curve in by_seed.values()]
        last = [curve[-1] for curve in by_seed.values()]
        accuracy, cpu_seconds = fmean(p.accuracy for p in last), fmean(p.cpu_seconds for p in last)
        rows.append(Row(length, variant, accuracy, median(steps), cpu_seconds))
    return rows


def table(rows: Iterable[Row]) -> str:
    """Lines of text."""
    lines = [f"{'tokens':>6}  {'':<24}{'accuracy':>10}{f'steps to {LEARNED:.0%}':>14}{'CPU-s':>8}"]
    for row in rows:
        steps = "-" if row.steps == math.inf else f"{row.steps:.0f}"
        lines.append(f"{row.length:>6}  {row.variant:<24}{row.accuracy:>10.1%}{steps:>14}{row.cpu_seconds:>8.1f}")
    return "\n".join(lines)
