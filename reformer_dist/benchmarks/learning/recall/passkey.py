"""A passkey at every depth of long sequences, by models trained on short ones.

In: a size. Out: the share of passkeys that are found, by length and depth, and a heat map for each model.

A model is trained on lengths up to `trained`, drawn anew at every step, and asked at those and at lengths that it never saw.
That needs positions that go on: rotary ones, or none but what the convolution and local layers tell. As in the recall
suite, each cell is written when it is done and a run goes on where its file ends.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch.nn.functional import cross_entropy

from reformer_dist.benchmarks.learning.book import Book
from reformer_dist.benchmarks.learning.recall.model import ScoredLM, make_optimizer
from reformer_dist.benchmarks.learning.recall.mqar_training import rate_at
from reformer_dist.benchmarks.learning.recall.passkey_report import Asked, Found, figure, tables
from reformer_dist.benchmarks.learning.recall.passkey_task import SHORTEST, VOCABULARY, found, passkeys
from reformer_dist.config import ModelConfig

MODELS: Mapping[str, Mapping[str, Any]] = {
    "local,lsh": {"layers": ("local", "lsh")},
    "full": {"layers": ("full", "full")},
    "local,lsh, not rotary": {"layers": ("local", "lsh"), "rotary": False},
    "full, not rotary": {"layers": ("full", "full"), "rotary": False},
}
"""Fields of the model section by the name of a model."""


@dataclass(frozen=True)
class Size:
    """What is trained and asked."""

    trained: int
    """Longest sequence of the training."""
    lengths: tuple[int, ...]
    """Of the questions."""
    longest_full: int
    """Full attention, whose time grows with the square, is asked up to here."""
    depths: int
    """How many depths, evenly from 0 to 1."""
    questions: int
    """Passkeys of each length and depth."""
    steps: int
    """Of training."""
    tokens: int = 8192
    """Of a step."""
    width: int = 64
    """Of the model."""
    learning_rate: float = 1e-2
    """Of the trainer's optimizer; twice that for matrices. After a warm-up of a twentieth of the steps it falls to zero as
    half a cosine."""
    seeds: tuple[int, ...] = (0,)
    """Of weights, rotations and sequences."""


SIZES = {
    "small": Size(trained=256, lengths=(256, 1024, 4096), longest_full=1024, depths=5, questions=16, steps=250),
    "paper": Size(
        trained=1024,
        lengths=(1024, 2048, 4096, 8192, 16384, 32768, 65536),
        longest_full=16384,
        depths=9,
        questions=16,
        steps=1000,
    ),
}


def run(size_name: Literal["small", "paper"], output: Path) -> None:
    """Train the models and ask what passkey-SIZE.csv in `output` does not have yet; print tables, write passkey-SIZE.png."""
    size, book = SIZES[size_name], Book(output / f"passkey-{size_name}.csv", Asked, Found)
    for seed in size.seeds:
        for name in MODELS:
            missing = [cell for cell in cells(size, name, seed) if not book.has(cell)]
            if missing:
                model = train(size, name, seed)
            for cell in missing:
                book.add(cell, ask(model, cell, size.questions))
                print(f"  {cell.length} tokens, depth {cell.depth:.0%}: {book.rows[-1].outcome.whole:.0%}")
    print(
        f"\nPasskeys found, trained on up to {size.trained:,} tokens, {size.questions} of each length and depth, in percent"
    )
    print(tables(book.rows))
    picture = output / f"passkey-{size_name}.png"
    figure(book.rows, size.trained).savefig(picture)
    print(f"\n{book.path}\n{picture}")


def cells(size: Size, model: str, seed: int) -> Iterator[Asked]:
    """What a model is asked, short lengths first."""
    for length in size.lengths:
        if length <= size.longest_full or "full" not in MODELS[model]["layers"]:
            for index in range(size.depths):
                yield Asked(model, seed, length, index / (size.depths - 1))


def model_config(size: Size, name: str, length: int, seed: int) -> ModelConfig:
    """A model for sequences up to a length; the default number of LSH buckets follows it, weights do not."""
    fields: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "embed_dim": size.width,
        "num_heads": 2,
        "feed_forward_dim": 4 * size.width,
        "max_length": length,
        "positions": "none",
        "lsh_window": 32,
        "local_window": 32,
        "seed": seed,
    }
    return ModelConfig(**{**fields, **MODELS[name]})


def train(size: Size, name: str, seed: int) -> ScoredLM:
    """Train a model on lengths drawn evenly on a logarithmic scale."""
    print(f"{name}, seed {seed}")
    model = ScoredLM(model_config(size, name, size.trained, seed))
    optimizer = make_optimizer(model, "default", size.learning_rate)
    warm_up = max(1, size.steps // 20)
    generator = torch.Generator().manual_seed(seed)
    for step in range(1, size.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * rate_at(step, size.steps, warm_up)
        share = torch.rand((), generator=generator).item()
        length = round(2 * SHORTEST * (size.trained / (2 * SHORTEST)) ** share)
        drawn = passkeys(size.tokens // length, length, generator)
        logits_BQV = model.logits_at(drawn.tokens_BT, drawn.queries_BQ, step)
        loss = cross_entropy(logits_BQV.flatten(0, 1), drawn.answers_BQ.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % max(1, size.steps // 10) == 0:
            print(f"  step {step}: loss {loss.item():.3f}")
    return model


@torch.no_grad()
def ask(model: ScoredLM, cell: Asked, questions: int) -> Found:
    """Hide passkeys in sequences of this length and look for them; LSH has as many buckets as the length asks for."""
    config = ModelConfig(**{**model.config.model_dump(), "max_length": cell.length})
    longer = ScoredLM(config).eval()
    longer.load_state_dict(model.state_dict())
    generator = torch.Generator().manual_seed(2**31 + cell.length)
    all_right = right = 0
    for _ in range(questions):
        drawn = passkeys(1, cell.length, generator, cell.depth)
        logits_BQV = longer.logits_at(drawn.tokens_BT, drawn.queries_BQ)
        all_right += int(found(logits_BQV, drawn.answers_BQ).sum())
        right += int((logits_BQV.argmax(-1) == drawn.answers_BQ).sum())
    return Found(all_right / questions, right / (questions * drawn.answers_BQ.shape[1]))
