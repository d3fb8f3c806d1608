"""The inner attention of a layer: local, LSH or full, by the model's configuration.

In: projected queries, keys and values [B, T, H, D] and where they lie. Out: [B, T, H, D], and what to reuse in a replay.
Each is one callable, so that sequence parallelism can wrap it from outside.

Legend: B batch, T tokens of this shard, H heads, D head dimension, R hash rounds.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from reformer_dist.config import ModelConfig
from reformer_dist.model.attention.full import full_attention
from reformer_dist.model.attention.hashing import draw_rotations, hash_buckets
from reformer_dist.model.attention.local import local_attention
from reformer_dist.model.attention.lsh import lsh_attention
from reformer_dist.model.backends.description import AttentionDropout
from reformer_dist.model.context import Context
from reformer_dist.model.randomness import Use, make_key


class Core(Protocol):
    """Attention of some heads over some tokens."""

    head_shards: int
    """Workers among whom the heads that it is given are divided."""

    def __call__(self, tensors: tuple[Tensor, ...], context: Context, found: Any, training: bool) -> tuple[Tensor, Any]:
        """Attend.

        Args:
            tensors: (qk, v) for LSH, else (q, k, v), each [B, T, H, D].
            context: place of the tokens and heads.
            found: what the forward pass found, in the backward pass's replay (LSH: buckets [B, H, R, T]); else None.
            training: whether dropout is on and rotations are those of the step.

        Returns:
            [B, T, H, D], and what was found (None where there is nothing to find).

        """


class LocalCore:
    """Local attention by the model's configuration."""

    head_shards = 1

    def __init__(self, config: ModelConfig, layer: int) -> None:
        self.config, self.layer = config, layer

    def __call__(
        self, tensors: tuple[Tensor, ...], context: Context, found: None, training: bool
    ) -> tuple[Tensor, None]:
        """See `Core`."""
        config = self.config
        out = local_attention(
            *tensors,
            mode=config.local_mode,
            window=config.local_window,
            neighbours=config.local_neighbours,
            padded_length=_padded_length(config, tensors[0].shape[1]),
            causal=config.causal,
            context=context,
            dropout=attention_dropout(config, self.layer, context, training),
            kernel=config.attention_kernel,
        )
        return out, None


class FullCore:
    """Exact attention by the model's configuration."""

    head_shards = 1

    def __init__(self, config: ModelConfig, layer: int) -> None:
        self.config, self.layer = config, layer

    def __call__(
        self, tensors: tuple[Tensor, ...], context: Context, found: None, training: bool
    ) -> tuple[Tensor, None]:
        """See `Core`."""
        drop = attention_dropout(self.config, self.layer, context, training)
        return full_attention(*tensors, causal=self.config.causal, context=context, dropout=drop), None


def alone(x: Tensor) -> Tensor:
    """What a worker gathers that shares its sequences with nobody, [1, ...]."""
    return x[None]


@dataclass(frozen=True)
class Hashed:
    """What an LSH layer has hashed, for those who look on."""

    qk_BTHD: Tensor
    """Queries-keys of this shard."""
    buckets_BHRT: Tensor
    """Their buckets."""
    rotations: Tensor
    """The rotations that led there, [D, R, F] or [H, D, R, F]."""
    context: Context
    """Place of the tokens and heads."""
    gather: Callable[[Tensor], Tensor]
    """All shards' tensors of a shape in order, [P, ...]; collective."""


class LSHCore:
    """LSH attention by the model's configuration, with rotations drawn anew in every training step."""

    head_shards = 1

    def __init__(self, config: ModelConfig, layer: int) -> None:
        self.config, self.layer = config, layer
        self.observer: Callable[[LSHCore, Hashed], None] | None = None
        """Is shown what is hashed; see hash_health.py."""

    def show(
        self,
        qk_BTHD: Tensor,
        buckets_BHRT: Tensor,
        context: Context,
        training: bool,
        gather: Callable[[Tensor], Tensor] = alone,
    ) -> None:
        """Show the observer, if there is one, what has been hashed."""
        if self.observer is not None:
            rotations = self._rotations(qk_BTHD, context, training)
            self.observer(self, Hashed(qk_BTHD, buckets_BHRT, rotations, context, gather))

    def rotations(self, step: int, dtype: torch.dtype) -> Tensor:
        """The layer's rotations: [D, R, F] shared by the heads, or with `hash_seed` [H, D, R, F] for vectors of `dtype`."""
        config = self.config
        if config.hash_seed is None:
            return draw_rotations(
                make_key(config.seed, step, self.layer, Use.ROTATIONS),
                config.head_width,
                config.num_hashes,
                config.bucket_factors,
            )
        return draw_rotations(
            config.hash_seed,
            config.head_width,
            config.num_hashes,
            config.bucket_factors,
            config.num_heads,
            torch.promote_types(dtype, torch.float32),
        )

    def hash(self, qk_BTHD: Tensor, context: Context, training: bool) -> Tensor:
        """Buckets [B, H, R, T] of these tokens and heads."""
        return hash_buckets(qk_BTHD, self._rotations(qk_BTHD, context, training), self.config.bucket_factors)

    def _rotations(self, qk_BTHD: Tensor, context: Context, training: bool) -> Tensor:
        rotations = self.rotations(context.step if training else 0, qk_BTHD.dtype)
        if rotations.dim() == 4:
            rotations = rotations[context.first_head : context.first_head + qk_BTHD.shape[2]]
        return rotations

    def __call__(
        self, tensors: tuple[Tensor, ...], context: Context, found: Tensor | None, training: bool
    ) -> tuple[Tensor, Tensor]:
        """See `Core`."""
        config, (qk_BTHD, v_BTHD) = self.config, tensors
        rotations = self._rotations(qk_BTHD, context, training)
        buckets_BHRT = hash_buckets(qk_BTHD, rotations, config.bucket_factors) if found is None else found
        if found is None:
            self.show(qk_BTHD, buckets_BHRT, context, training)
        out = lsh_attention(
            qk_BTHD,
            v_BTHD,
            rotations,
            num_buckets=config.bucket_factors,
            mode=config.lsh_mode,
            window=config.lsh_window,
            neighbours=config.lsh_neighbours,
            padded_length=_padded_length(config, qk_BTHD.shape[1]),
            causal=config.causal,
            buckets_BHRT=buckets_BHRT,
            context=context,
            dropout=attention_dropout(config, self.layer, context, training),
            kernel=config.attention_kernel,
        )
        return out, buckets_BHRT


CORES: dict[str, Any] = {"local": LocalCore, "lsh": LSHCore, "full": FullCore}
"""By the name of a layer's kind."""


def _padded_length(config: ModelConfig, length: int) -> int:
    """Length to which chunked attention pads: past the shortest chunk a multiple of every kind's, as in Hugging Face."""
    chunks = []
    if "lsh" in config.layers and config.lsh_mode == "chunked":
        chunks.append(config.lsh_window)
    if "local" in config.layers and config.local_mode == "chunked":
        chunks.append(config.local_window)
    multiple = math.lcm(*chunks)
    return length if length <= min(chunks, default=length) else math.ceil(length / multiple) * multiple


def attention_dropout(config: ModelConfig, layer: int, context: Context, training: bool) -> AttentionDropout | None:
    """Dropout of a layer's attention weights in this step; None for none."""
    probability = config.attention_dropout
    if config.layers[layer] == "local" and config.local_attention_dropout is not None:
        probability = config.local_attention_dropout
    if not training or probability == 0:
        return None
    return AttentionDropout(probability, make_key(config.seed, context.step, layer, Use.ATTENTION_WEIGHTS))
