"""What is compared: variants and changes by name, each a few fields of the configuration, and the models they make.

In: fields such as `model.layers`. Out: a model, with as many parameters as the others, and its optimizer's settings.
"""

import difflib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from reformer_dist.benchmarks.learning.quality.transformer import Transformer
from reformer_dist.checkpoints import optimizer_state
from reformer_dist.config import ModelConfig, OptimizerConfig
from reformer_dist.errors import ConfigError
from reformer_dist.model.reformer import ReformerLM
from reformer_dist.training.engine.optimizer import make_optimizer

Named = TypeVar("Named")
Fields = Mapping[str, Any]
"""Values by dotted name, of the sections model and optimizer; `architecture` is reformer (default) or transformer."""

BASE: Fields = {
    "model.layers": "local,lsh,local,lsh",
    "model.embed_dim": 128,
    "model.num_heads": 4,
    "model.num_hashes": 2,
    "optimizer.name": "muon",
    "optimizer.learning_rate": 0.01,
    "optimizer.matrix_learning_rate": 0.02,
}
"""The demo's model, and what all variants have unless they say otherwise."""
FEED_FORWARD_DIM = 512
"""Inner width of the base's feed-forward layers, which decides how many parameters every variant has."""

VARIANTS: dict[str, Fields] = {
    "local,lsh": {},
    "local,local,local,lsh": {"model.layers": "local,local,local,lsh"},
    "transformer": {"architecture": "transformer"},
    "local": {"model.layers": "local,local,local,local"},
    "full": {"model.layers": "full,full,full,full"},
    "lsh": {"model.layers": "lsh,lsh,lsh,lsh"},
}
"""Those of `--suite quality`, as changes of BASE; the most telling come first."""

CHANGES: dict[str, Fields] = {
    "base": {},
    "AdamW alone": {"optimizer.name": "adamw", "optimizer.learning_rate": 0.004},
    "no convolution": {"model.convolution": 0},
    "LSH keys bring their own values": {"model.lsh_values": "own"},
    "local alone": {"model.layers": "local,local,local,local"},
    "one bucket, all keys": {"model.num_buckets": 1, "model.num_hashes": 1, "model.lsh_window": 4096},
    "LSH turned by positions too": {"model.lsh_rotary": True},
    "no rotary positions": {"model.rotary": False},
    "rotary positions alone": {"model.positions": "none"},
    "GELU": {"model.activation": "gelu"},
    "SwiGLU": {"model.gated": True, "model.activation": "silu"},
    "RMSNorm": {"model.norm": "rms"},
    "query-key norm": {"model.query_key_norm": True},
    "embeddings of std 0.02": {"model.embedding_std": 0.02},
    "outputs start at zero": {"model.output_scale": 0.0},
    "local,local,local,lsh": {"model.layers": "local,local,local,lsh"},
    "one hash round": {"model.num_hashes": 1},
    "four hash rounds": {"model.num_hashes": 4},
    "LSH window 128": {"model.lsh_window": 128},
    "local window 128": {"model.local_window": 128},
    "logit cap 15": {"model.logit_cap": 15.0},
    "weight decay 0.1": {"optimizer.weight_decay": 0.1},
    "tied embeddings": {"model.tie_embeddings": True},
    "eight heads": {"model.num_heads": 8},
    "not reversible": {"model.reversible": False},
    "exact transformer": {"architecture": "transformer"},
    "dropout 0.1": {"model.hidden_dropout": 0.1},
    "local,local,local,lsh, dropout 0.1": {"model.layers": "local,local,local,lsh", "model.hidden_dropout": 0.1},
    "exact transformer, dropout 0.1": {"architecture": "transformer", "model.hidden_dropout": 0.1},
}
"""Those of `--suite ablation`, each by itself, as changes of BASE; the base comes first."""


def named(all_of_them: Mapping[str, Named], only: Sequence[str]) -> dict[str, Named]:
    """Those that are named, all of them by default; a name that is none is told with the nearest that is."""
    if unknown := [name for name in only if name not in all_of_them]:
        near = difflib.get_close_matches(unknown[0], all_of_them, n=1, cutoff=0.0)
        raise ConfigError(f"--only {unknown[0]}: no such variant or change; {near[0]} works")
    return {name: what for name, what in all_of_them.items() if name in (only or all_of_them)}


class LanguageModel(Protocol):
    """What ReformerLM and Transformer have in common."""

    def __call__(self, tokens: Tensor, *, step: int = 0) -> Tensor:
        """Logits [B, T, V]."""

    def loss(self, tokens: Tensor, labels: Tensor, *, step: int = 0) -> tuple[Tensor, Tensor]:
        """Summed loss in nats and number of tokens."""

    def train(self, mode: bool = True) -> Any:
        """Switch to training."""

    def eval(self) -> Any:
        """Switch to evaluation."""


def section(fields: Fields, name: str) -> dict[str, Any]:
    """The fields of one section by their names in it."""
    return {key.split(".")[1]: value for key, value in fields.items() if key.startswith(f"{name}.")}


def make_model(fields: Fields, length: int, seed: int) -> nn.Module:
    """The model that BASE with these changes says, for sequences up to `length`; a `LanguageModel`."""
    fields = {"model.feed_forward_dim": FEED_FORWARD_DIM, **BASE, **fields}
    config = ModelConfig(**section(fields, "model"), max_length=length, seed=seed)
    return Transformer(config) if fields.get("architecture") == "transformer" else ReformerLM(config)


def with_equal_parameters(fields: Fields, length: int) -> Fields:
    """The fields and the width of feed-forward layers, a multiple of 16, that comes nearest to the base's parameters.

    Fields that give a width keep it.
    """
    key = "model.feed_forward_dim"
    if key in fields:
        return fields
    narrow, wide = (num_parameters(make_model({**fields, key: width}, length, 0)) for width in (16, 32))
    wanted = num_parameters(make_model({}, length, 0))
    return {**fields, key: 16 * max(1, 1 + round((wanted - narrow) / (wide - narrow)))}


def num_parameters(model: nn.Module) -> int:
    """Weights of a model."""
    return sum(parameter.numel() for parameter in model.parameters())


def make_optimizer_of(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The trainer's optimizer for a model that is whole in this process; its groups have their peak rate as `peak_lr`."""
    return make_optimizer(model, config, partial(optimizer_state.whole, model))


def optimizer_config(fields: Fields, scale: float) -> OptimizerConfig:
    """Settings of BASE with these changes, and both learning rates so many times that."""
    config = OptimizerConfig(**section({**BASE, **fields}, "optimizer"))
    rates = {name: scale * getattr(config, name) for name in ("learning_rate", "matrix_learning_rate")}
    return config.model_copy(update=rates)
