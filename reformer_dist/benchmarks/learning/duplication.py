"""Does it learn? The duplication task of Kitaev et al. 2020, section 5, trained and evaluated with different attention.

In: a size. Out: their Table 2 and the learning curves, for LSH attention in `window` and in `chunked` mode.

A sequence is 0 w 0 w, with w of random symbols 1..127; only the second w is scored. Copying it takes one look far back
at every token, which is what LSH attention could miss: a look succeeds where query and key share a bucket in some round.

Legend: B batch, T tokens.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from reformer_dist.benchmarks.learning import duplication_report
from reformer_dist.benchmarks.learning.duplication_report import MODES, TRAINED_WITH, Point, Score, label
from reformer_dist.config import ModelConfig
from reformer_dist.model.attention.lsh import lsh_attention
from reformer_dist.model.layers.output import IGNORED
from reformer_dist.model.reformer import ReformerLM

VOCAB_SIZE = 128
EVALUATED_WITH = (0, 8, 4, 2, 1)
_HELD_OUT = 1 << 40  # seed of the held-out sequences; training's are the step numbers of a run


@dataclass(frozen=True)
class Size:
    """How large the task and the model are, and how they are trained."""

    length: int
    """Tokens T of a sequence, even."""
    embed_dim: int
    """Width of the model and of its feed-forward layer."""
    keys: int
    """Most keys a query sees in a round: the window, or the two chunks (its own and the one before)."""
    batch_size: int
    """Sequences a step."""
    steps: int
    """Training steps."""
    learning_rate: float
    """AdamW's, after the warm-up."""
    warm_up: int
    """Steps in which the learning rate grows linearly."""
    evaluate_every: int
    """Steps between two points of a curve."""
    seeds: tuple[int, ...]
    """Trainings of every kind: seeds of weights, rotations and sequences."""
    num_heads: int = 4
    """Attention heads."""
    test_sequences: int = 64
    """Held-out sequences of a table entry; the curves use the first quarter of them."""

    def num_buckets(self, mode: str) -> int:
        """Buckets of a round: of as many tokens as the window, or (trax's rule) of half a chunk."""
        return self.length // self.keys * (1 if mode == "window" else 4)


SIZES = {
    "small": Size(
        length=128,
        embed_dim=64,
        keys=16,
        batch_size=16,
        steps=350,
        learning_rate=5e-3,
        warm_up=50,
        evaluate_every=10,
        seeds=(0, 1, 2),
    ),
    "paper": Size(
        length=1024,
        embed_dim=256,
        keys=128,
        batch_size=8,
        steps=500,
        learning_rate=2e-3,
        warm_up=100,
        evaluate_every=20,
        seeds=(0,),
    ),
}


def run(size_name: Literal["small", "paper"], output: Path) -> None:
    """Train with full attention and 4, 2 and 1 hash rounds in both modes, evaluate each with full and 8, 4, 2, 1 rounds.

    Prints the tables; writes duplication-SIZE.csv, duplication-SIZE-curves.csv and duplication-SIZE.png into `output`.
    """
    size, start = SIZES[size_name], time.monotonic()
    scores: list[Score] = []
    points: list[Point] = []
    for seed in size.seeds:
        for modes, rounds in _trainings():
            model, curve = train(size, modes[0], rounds, seed)
            for mode in modes:
                points += [Point(mode, rounds, seed, *values) for values in curve]
                scores += [Score(mode, rounds, n, seed, accuracy) for n, accuracy in evaluate(model, size, mode)]
            step, loss, accuracy = curve[-1]
            trained = label(rounds) if rounds == 0 else f"{modes[0]} {label(rounds)}"
            minutes = (time.monotonic() - start) / 60
            print(f"seed {seed}, {trained}: step {step}, loss {loss:.3f}, accuracy {accuracy:.1%} ({minutes:.1f} min)")
    title = f"length {size.length}, up to {size.keys} keys a round"
    print(duplication_report.tables(scores, points, title))
    seen = ", ".join(f"{mode} {keys_seen(size, mode):.1f} ({size.num_buckets(mode)} buckets)" for mode in MODES)
    print(f"\nKeys that a scored token sees in a round, on average: {seen}")
    for path in duplication_report.write(output, f"duplication-{size_name}", scores, points, title):
        print(path)


def sequences(num_sequences: int, length: int, seed: int) -> tuple[Tensor, Tensor]:
    """Tokens 0 w 0 w and their shifted labels, -100 outside the second w; both [B, T] int64.

    Raises:
        ValueError: an odd length, or one without a symbol to copy.

    """
    if length % 2 or length < 4:
        raise ValueError(f"length = {length} must be even and at least 4, for 0 w 0 w; {max(4, length + 1)} works")
    generator = torch.Generator().manual_seed(seed)
    half = torch.randint(1, VOCAB_SIZE, (num_sequences, length // 2), generator=generator)
    half[:, 0] = 0
    labels = torch.full((num_sequences, length), IGNORED)
    labels[:, length // 2 : -1] = half[:, 1:]
    return torch.cat([half, half], dim=1), labels


def attention(size: Size, mode: str, rounds: int, num_buckets: int | None = None) -> dict[str, Any]:
    """ModelConfig fields of LSH attention with so many rounds, or of full attention with shared queries-keys for 0.

    One bucket whose window is the whole sequence leaves nothing out: full attention, with the same weights.
    """
    if rounds == 0:
        return {"lsh_mode": "window", "num_hashes": 1, "num_buckets": 1, "lsh_window": size.length}
    window = size.keys if mode == "window" else size.keys // 2
    num_buckets = num_buckets or size.num_buckets(mode)
    return {"lsh_mode": mode, "num_hashes": rounds, "num_buckets": num_buckets, "lsh_window": window}


def keys_seen(size: Size, mode: str, num_buckets: int | None = None) -> float:
    """Mean number of keys that a query of the second half sees in a round, where hashes are spread evenly.

    Queries-keys of zero weigh all visible keys alike, and unit vectors as values show them one by one.
    """
    settings, heads = attention(size, mode, 1, num_buckets), 8
    buckets = torch.randint(
        settings["num_buckets"], (1, heads, 1, size.length), generator=torch.Generator().manual_seed(0)
    )
    weights_BTHT = lsh_attention(
        torch.zeros(1, size.length, heads, size.length),
        torch.eye(size.length)[None, :, None].expand(-1, -1, heads, -1),
        torch.empty(size.length, 1, settings["num_buckets"] // 2),
        num_buckets=settings["num_buckets"],
        mode=settings["lsh_mode"],
        window=settings["lsh_window"],
        buckets_BHRT=buckets,
    )
    return (weights_BTHT[:, size.length // 2 :] > 0).sum(-1).double().mean().item()


def train(
    size: Size, mode: str, rounds: int, seed: int, num_buckets: int | None = None
) -> tuple[ReformerLM, list[tuple[int, float, float]]]:
    """A trained model and its curve: (step, loss over the steps since the last point, held-out accuracy)."""
    config = ModelConfig(
        vocab_size=VOCAB_SIZE,
        embed_dim=size.embed_dim,
        num_heads=size.num_heads,
        feed_forward_dim=size.embed_dim,
        layers=("lsh",),
        max_length=size.length,
        positions="learned",
        seed=seed,
        **attention(size, mode, rounds, num_buckets),
    )
    model = ReformerLM(config).to(_device())
    optimizer = torch.optim.AdamW(model.parameters(), lr=size.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _learning_rate(step, size))
    losses, curve = [], []
    for step in range(size.steps):
        tokens, labels = (x.to(_device()) for x in sequences(size.batch_size, size.length, seed * size.steps + step))
        loss_sum, num_tokens = model.loss(tokens, labels, step=step)
        optimizer.zero_grad()
        (loss_sum / num_tokens).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss_sum.detach() / num_tokens)
        if (step + 1) % size.evaluate_every == 0:
            curve.append((step + 1, torch.stack(losses).mean().item(), accuracy(model, size, size.test_sequences // 4)))
            losses.clear()
    return model, curve


def evaluate(model: ReformerLM, size: Size, mode: str) -> Iterator[tuple[int, float]]:
    """(rounds, held-out accuracy) of the same weights under full attention and each number of rounds."""
    for rounds in EVALUATED_WITH:
        yield rounds, accuracy(model.with_settings(**attention(size, mode, rounds)), size, size.test_sequences)


@torch.no_grad()
def accuracy(model: ReformerLM, size: Size, num_sequences: int) -> float:
    """Share of the held-out sequences' scored symbols that the likeliest token gets right."""
    training = model.training
    model.eval()
    tokens, labels = (x.to(_device()) for x in sequences(num_sequences, size.length, _HELD_OUT))
    parts = zip(tokens.split(size.batch_size), labels.split(size.batch_size), strict=True)
    num_right = sum((model(part).argmax(-1) == right).sum().item() for part, right in parts)  # never equals IGNORED
    model.train(training)
    return num_right / (labels != IGNORED).sum().item()


def _trainings() -> Iterator[tuple[tuple[str, ...], int]]:
    """(modes to evaluate in, rounds) of every training; full attention is the same in both modes and trained once."""
    for rounds in TRAINED_WITH:
        yield from [(MODES, rounds)] if rounds == 0 else [((mode,), rounds) for mode in MODES]


def _learning_rate(step: int, size: Size) -> float:
    """Share of the peak: a linear warm-up, then half a cosine down to a twentieth."""
    decayed = 0.05 + 0.475 * (1 + math.cos(math.pi * step / size.steps))
    return min(1.0, (step + 1) / size.warm_up) * decayed


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
