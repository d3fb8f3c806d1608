"""The duplication task of Kitaev et al. 2020, section 5: its documents, its sizes and its kinds of attention.

In: a size. Out: documents w SEPARATOR w with w of random symbols, which with their boundary are a sequence each, so that
each symbol of the second w lies half a sequence behind its original; fields of the model section for each attention.

Legend: B batch, T tokens, H heads.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reformer_dist.model.attention.lsh.attention import lsh_attention

NUM_DOCUMENTS = 16_384


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
    """Trainings of every kind: seeds of weights, rotations and the order of the sequences."""
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


def documents(number: int, length: int, symbols: str, separator: str, seed: int = 0) -> Iterator[str]:
    """Texts of `length` - 1 characters: random symbols, the separator in the middle, and the symbols again.

    Raises:
        ValueError: an odd length, or one without a symbol to copy.
    """
    if length % 2 or length < 4:
        raise ValueError(f"length = {length} must be even and at least 4, for two words; {max(4, length + 1)} works")
    draws = np.random.default_rng(seed).integers(len(symbols), size=(number, length // 2 - 1))
    for word in ("".join(symbols[i] for i in row) for row in draws):
        yield f"{word}{separator}{word}"


def write_documents(path: Path, length: int, symbols: str, separator: str) -> None:
    """Write NUM_DOCUMENTS of them into a JSONL file."""
    with path.open("w", encoding="ascii") as file:
        for text in documents(NUM_DOCUMENTS, length, symbols, separator):
            file.write(f"{json.dumps({'text': text})}\n")


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
