"""All layers for one token more by one compiled call, see plan.cpp.

In and out: as `DecodingPlan` says.

Legend: B batch, E model dimension, F pairs of features.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from reformer_dist.model.backends.description import AttentionWeights, FeedForwardWeights, FiledTokens, StreamNorm


class NativePlan:
    """See `DecodingPlan`; float32 and float64 on a CPU."""

    activations = frozenset({"relu", "relu2", "silu"})

    def __init__(self) -> None:
        """Without layers."""
        self.room = torch.iinfo(torch.int64).max
        self._plan = torch.classes.reformer_dist.DecodingPlan()
        self._oldest: list[Callable[[Tensor], Tensor]] = []

    def add_attention_of_buckets(
        self,
        norm: StreamNorm,
        weights: AttentionWeights,
        hashing: tuple[Tensor, Sequence[int]],
        filed: FiledTokens,
        is_turned: bool,
    ) -> None:
        """See `DecodingPlan`."""
        self.room = min(self.room, filed.rows.shape[2])
        rotations, factors = hashing
        places = filed.rows, filed.newest_BHRNW, filed.counts_BHRN, filed.brings_next, is_turned
        self._plan.add_attention_of_buckets(*_norm(norm), *_attention(weights), rotations, list(factors), *places)

    def add_attention_of_newest(
        self,
        norm: StreamNorm,
        weights: AttentionWeights,
        rows: Tensor,
        room: int,
        oldest: Callable[[Tensor], Tensor],
    ) -> None:
        """See `DecodingPlan`."""
        self.room = min(self.room, room)
        self._oldest.append(oldest)
        self._plan.add_attention_of_newest(*_norm(norm), *_attention(weights), rows)

    def add_feed_forward(self, norm: StreamNorm, weights: FeedForwardWeights) -> None:
        """See `DecodingPlan`."""
        inner = list(weights.inner), list(weights.inner_biases), weights.output_EN, weights.output_bias_E
        self._plan.add_feed_forward(*_norm(norm), *inner, weights.activation)

    def next(self, x_BE: Tensor, positions_B: Tensor, waves_BF: Tensor | None) -> tuple[Tensor, Tensor]:
        """See `DecodingPlan`."""
        oldest = [of_layer(positions_B) for of_layer in self._oldest]
        first_BE, second_BE = self._plan.next(x_BE, positions_B, real(waves_BF), oldest)
        return first_BE, second_BE


def real(waves_BF: Tensor | None) -> Tensor | None:
    """Complex numbers as pairs."""
    return None if waves_BF is None else torch.view_as_real(waves_BF)


def _norm(norm: StreamNorm) -> tuple[Any, ...]:
    return norm.weight_E, norm.bias_E, norm.eps, norm.taps_E1K, norm.recent_BKE


def _attention(weights: AttentionWeights) -> tuple[Any, ...]:
    return list(weights.projections), weights.output_EN, weights.temperature_H
