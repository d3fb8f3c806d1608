"""The attention kinds by name, as `model.layers` gives them, and what computes those of a model, cross-attention too."""

import torch

from reformer_dist.config import ModelConfig
from reformer_dist.model.attention.full_kind import FullKind
from reformer_dist.model.attention.kind import Kind
from reformer_dist.model.attention.local_kind import LocalKind
from reformer_dist.model.attention.lsh.kind import LSHKind
from reformer_dist.model.budget import Budget

KINDS: dict[str, type[Kind]] = {
    "local": LocalKind,
    "lsh": LSHKind,
    "full": FullKind,
}


def explain_model(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> str:
    """What computes the attention of a model in training, in one line.

    Args:
        config: the model's.
        device: where it is trained.
        dtype: of queries, keys and values: under autocast its dtype.

    """
    if not config.encoder_layers:
        return _explain_stack(config, "", device, dtype)
    encoder = _explain_stack(config.encoder, "the encoder's ", device, dtype)
    decoder = _explain_stack(config, "the decoder's ", device, dtype)
    return f"{encoder} | {decoder} | {config.cross_attention} cross-attention: {_explain_cross(config)}"


def _explain_stack(config: ModelConfig, whose: str, device: torch.device, dtype: torch.dtype) -> str:
    layers: dict[str, list[str]] = {}
    for name in dict.fromkeys(config.layers):
        kind = KINDS[name](config, 0, Budget.of(config))
        layers.setdefault(kind.explain(device, dtype), []).append(name)
    return " | ".join(f"attention of {whose}{' and '.join(names)} layers: {words}" for words, names in layers.items())


def _explain_cross(config: ModelConfig) -> str:
    if config.cross_attention == "full" and not config.attention_dropout:
        return "torch's scaled_dot_product_attention"
    return "plain torch"
