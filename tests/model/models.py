"""Small models for the numerics tests."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from reformer_dist import EncoderDecoder, ModelConfig, ReformerLM
from reformer_dist.model.budget import Budget
from reformer_dist.model.token_model import TokenModel

Model = TypeVar("Model", bound=TokenModel)
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


def make_model(limits: Mapping[str, int] | None = None, model_class: type[Model] = ReformerLM, **changes: Any) -> Model:
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
    model = model_class(config, replace(Budget.of(config), **(limits or {}))).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.removeprefix("encoder.").startswith("positions"):
                parameter.mul_(50)
    return model


def make_encoder_decoder(limits: Mapping[str, int] | None = None, **changes: Any) -> EncoderDecoder:
    """The same with an encoder, another number of source tokens, and a decoder of three layers."""
    settings: dict[str, Any] = {
        "encoder_layers": ("local", "lsh"),
        "layers": ("local", "lsh", "full"),
        "max_source_length": 96,
        "cross_rotary": True,
        **changes,
    }
    return make_model(limits, EncoderDecoder, **settings)


def draw_tokens(length: int, batch: int = 3, seed: int = 0) -> Tensor:
    """Random tokens [B, T]."""
    return torch.randint(VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))
