"""How often float32 hashes a token differently when it is decoded alone than within its whole sequence.

In: a size. Out: a table of bucket choices that differ, and the largest difference of logits, for random weights and tokens.
"""

from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from reformer_dist.config import ModelConfig
from reformer_dist.generation.decoding import Decoder
from reformer_dist.model.attention.lsh import memory
from reformer_dist.model.attention.lsh.hashing import hash_buckets
from reformer_dist.model.backends.backend import Work
from reformer_dist.model.backends.choice import choose
from reformer_dist.model.reformer import ReformerLM

LENGTHS = {"small": 1024, "paper": 8192}


def run(size: str, output: Path) -> None:
    """Print the table; nothing is written to `output`."""
    print(f"{'seed':>4} {'choices':>9} {'differ':>6} {'largest change of a logit':>26}")
    for seed in range(3):
        choices, differ, change = compare(LENGTHS[size], seed)
        print(f"{seed:4} {choices:9,} {differ:6,} {change:26.1e}")


def compare(length: int, seed: int) -> tuple[int, int, float]:
    """Bucket choices made, how many of them differ between the two paths, and the largest change of a logit."""
    torch.manual_seed(seed)
    model = ReformerLM(ModelConfig(layers=("local", "lsh") * 3, max_length=length, seed=seed)).eval()
    tokens = torch.randint(256, (1, length))
    with torch.no_grad():
        at_once, logits = _watched(model, [tokens])
        one_by_one, step_logits = _watched(model, list(tokens.split(1, dim=1)))
    differ = sum(int((x != y).sum()) for x, y in zip(at_once, one_by_one, strict=True))
    return sum(x.numel() for x in at_once), differ, float((logits - step_logits).abs().max())


def _watched(model: ReformerLM, stretches: list[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Buckets of each LSH layer, [B, H, R, T], and logits, when the stretches are read one after the other."""
    found: list[Tensor] = []
    backend = choose(Work(torch.device("cpu"), torch.float32, model.config.head_width))
    hash_next = backend.next_buckets

    def hash_and_keep(*arguments: Any) -> Tensor:
        found.append(hash_buckets(*arguments))
        return found[-1]

    def hash_next_and_keep(*arguments: Any) -> Tensor:
        buckets_BHR = hash_next(*arguments)
        found.append(buckets_BHR[..., None])
        return buckets_BHR

    with (
        mock.patch.object(memory, "hash_buckets", hash_and_keep),
        mock.patch.object(backend, "next_buckets", hash_next_and_keep),
        mock.patch.object(backend, "make_plan", return_value=None),  # a plan hashes by the same code, out of sight
    ):
        decoder = Decoder(model)
        logits = torch.cat([decoder.read(stretch) for stretch in stretches], dim=1)
    layers = model.config.layers.count("lsh")
    return [torch.cat(found[layer::layers], dim=-1) for layer in range(layers)], logits
