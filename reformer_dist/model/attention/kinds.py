"""The attention kinds by name, as `model.layers` gives them, and what computes those of a model."""

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
    layers: dict[str, list[str]] = {}
    for name in dict.fromkeys(config.layers):
        kind = KINDS[name](config, 0, Budget.of(config))
        layers.setdefault(kind.explain(device, dtype), []).append(name)
    return " | ".join(f"attention of {' and '.join(names)} layers: {words}" for words, names in layers.items())
