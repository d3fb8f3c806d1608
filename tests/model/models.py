"""Small models for the numerics tests."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from reformer_dist import ModelConfig, ReformerLM
from reformer_dist.model.budget import Budget

VOCABULARY = 17
OPTIONS: dict[str, Any] = {
    "norm": "rms",
    "convolution": 6,
    "lsh_values": "own",
    "lsh_rotary": True,
    "gated": True,
    "activation": "silu",
    "query_key_norm": True,
    "logit_cap": 5.0,
    "positions": "none",
    "rotary_base": 50.0,
}
"""The parts of a model that are not its default ones, all at once."""


def make_model(limits: Mapping[str, int] | None = None, **changes: Any) -> ReformerLM:
    """A float64 model with every kind of layer, odd sizes, and weights large enough for attention to be far from even.

    `limits` are those of its budget that are not the default ones.
    """
    settings: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "embed_dim": 12,
        "num_heads": 2,
        "feed_forward_dim": 20,
        "layers": ("local", "lsh", "full", "lsh"),
        "max_length": 128,
        "num_hashes": 3,
        "num_buckets": 4,
        "lsh_window": 5,
        "local_window": 7,
        "feed_forward_chunk": 9,
        "loss_chunk": 11,
        **changes,
    }
    config = ModelConfig(**settings)
    model = ReformerLM(config, replace(Budget.of(config), **(limits or {}))).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("positions"):
                parameter.mul_(50)
    return model


def draw_tokens(length: int, batch: int = 3, seed: int = 0) -> Tensor:
    """Random tokens [B, T]."""
    return torch.randint(VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))
