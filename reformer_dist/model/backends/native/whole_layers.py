"""One token more through a whole layer by one compiled operator, see whole_layers.cpp.

In and out: as `WholeLayers` says.

Legend: B batch, E model dimension, F pairs of features.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from reformer_dist.model.backends.description import AttentionWeights, FeedForwardWeights, FiledTokens, StreamNorm


class NativeLayers:
    """The compiled operators of layers; float32 and float64 on a CPU."""

    activations = frozenset({"relu", "relu2", "silu"})

    def next_of_buckets(
        self,
        x_BE: Tensor,
        norm: StreamNorm,
        weights: AttentionWeights,
        hashing: tuple[Tensor, Sequence[int]],
        filed: FiledTokens,
        positions_B: Tensor,
        waves_BF: Tensor | None,
    ) -> Tensor:
        """See `WholeLayers`."""
        places = filed.rows, filed.newest_BHRNW, filed.counts_BHRN, positions_B, filed.brings_next
        return torch.ops.reformer_dist.next_layer_of_buckets(
            x_BE, *_norm(norm), *_attention(weights), *hashing, *places, real(waves_BF)
        )

    def next_of_newest(
        self,
        x_BE: Tensor,
        norm: StreamNorm,
        weights: AttentionWeights,
        rows: Tensor,
        positions_B: Tensor,
        oldest_B: Tensor,
        waves_BF: Tensor | None,
    ) -> Tensor:
        """See `WholeLayers`."""
        return torch.ops.reformer_dist.next_layer_of_newest(
            x_BE, *_norm(norm), *_attention(weights), rows, positions_B, oldest_B, real(waves_BF)
        )

    def next_feed_forward(self, x_BE: Tensor, norm: StreamNorm, weights: FeedForwardWeights) -> Tensor:
        """See `WholeLayers`."""
        inner = weights.inner, weights.inner_biases, weights.output_EN, weights.output_bias_E, weights.activation
        return torch.ops.reformer_dist.next_feed_forward(x_BE, *_norm(norm), *inner)


def real(waves_BF: Tensor | None) -> Tensor | None:
    """Complex numbers as pairs."""
    return None if waves_BF is None else torch.view_as_real(waves_BF)


def _norm(norm: StreamNorm) -> tuple[Any, ...]:
    return norm.weight_E, norm.bias_E, norm.eps, norm.taps_E1K, norm.recent_BKE


def _attention(weights: AttentionWeights) -> tuple[Any, ...]:
    return weights.projections, weights.output_EN, weights.temperature_H
