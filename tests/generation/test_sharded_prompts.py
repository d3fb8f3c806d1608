"""A prompt that several workers read, each a shard, is remembered as by one."""

from typing import Any

import pytest
import torch
from torch import Tensor

from reformer_dist.config import load_config
from reformer_dist.generation.decoding import Decoder
from reformer_dist.generation.sharded_prompts import read_sharded
from reformer_dist.parallel.parallelize import parallelize
from reformer_dist.parallel.topology import make_topology
from tests.model.models import OPTIONS, draw_tokens, make_model
from tests.ranks import run_ranks

NUM_NEXT = 30
"""Tokens that are decoded after the prompt."""
NO_FULL = {"layers": ("local", "lsh", "local", "lsh")}
"""Buckets cannot serve full layers."""


def logits_by_shards(changes: dict[str, Any], length: int, shards: int, attention: str) -> Tensor | None:
    """On one of the workers: the logits after the prompt and after each token more."""
    model, tokens = make_model(**changes), draw_tokens(length + NUM_NEXT)[:1]
    config = load_config(
        None,
        {
            "train.workers": shards,
            "parallel.sequence_shards": shards,
            "parallel.attention": attention,
            "data.sequence_length": length,
            "model.num_heads": model.config.num_heads,
            "model.lsh_window": model.config.lsh_window,
        },
    )
    topology = make_topology(config)
    parallelize(model, topology)
    found = read_sharded(model, tokens[0, :length], topology)
    if found is None:
        return None
    decoder, logits_BV = found
    return torch.stack([logits_BV, *(decoder.next(tokens[:, i]) for i in range(length, length + NUM_NEXT))], dim=1)


@pytest.mark.parametrize(
    ("shards", "attention", "length", "changes"),
    [
        (2, "heads", 98, {}),
        (2, "heads", 61, OPTIONS),
        (2, "buckets", 75, NO_FULL),
        (4, "buckets", 63, {**OPTIONS, **NO_FULL}),
        (4, "buckets", 64, {"convolution": 0, **NO_FULL}),
        (1, "heads", 40, {}),
    ],
    ids=str,
)
def test_shards_remember_what_one_worker_does(
    shards: int, attention: str, length: int, changes: dict[str, Any]
) -> None:
    model, tokens = make_model(**changes), draw_tokens(length + NUM_NEXT)[:1]
    decoder = Decoder(model)
    parts = [decoder.read(tokens[:, :length], only_last=True)]
    parts += [decoder.read(tokens[:, i : i + 1]) for i in range(length, length + NUM_NEXT)]
    first, *others = run_ranks(logits_by_shards, shards, changes, length, shards, attention)
    assert others == [None] * (shards - 1)
    torch.testing.assert_close(first, torch.cat(parts, dim=1), rtol=0, atol=1e-10)
