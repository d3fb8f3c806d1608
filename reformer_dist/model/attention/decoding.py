"""An attention layer in decoding: its weights, and what it keeps of the tokens so far.

In: a stream of a prompt [B, T, E], then that of one token more of every row [B, E]. Out: the layer's contribution.

Legend: B batch, T tokens, E model dimension, H heads, D head dimension, N rows of projections.
"""

from collections.abc import Sequence
from functools import reduce
from itertools import islice

import torch
from torch import Tensor

from reformer_dist.model.attention.head_group import at_temperature
from reformer_dist.model.attention.layer import Attention
from reformer_dist.model.attention.memory import Place
from reformer_dist.model.backends.backend import DecodingPlan
from reformer_dist.model.backends.description import AttentionWeights
from reformer_dist.model.context import Context
from reformer_dist.model.layers.decoding import NormalisedStream


class DecodingAttention:
    """A layer and its memories, one for each head group."""

    def __init__(self, layer: Attention) -> None:
        """Start empty.

        Raises:
            ValueError: what a token sees depends on later ones.

        """
        self._layer, self._config = layer, layer.config
        self._stream = NormalisedStream(layer, layer.config)
        like, backend = layer.output_weight, self._stream.backend
        self._memories = [group.kind.make_memory(group.heads, like, backend) for group in layer.head_groups]
        weights = [layer.weights_of(group) for group in layer.head_groups]
        self._weights = [weight for projections, _ in weights for weight in projections]
        self._output_weights = [weight for _, weight in weights]

    def begin(self, nothing_B0E: Tensor) -> None:
        """Begin with rows that have read nothing."""
        self._stream.fill(nothing_B0E)
        for group, memory in zip(self._layer.head_groups, self._memories, strict=True):
            num_heads = group.heads.stop - group.heads.start
            memory.begin(nothing_B0E.new_empty(len(nothing_B0E), 0, num_heads, self._config.head_width))

    def read(self, x_BTE: Tensor) -> Tensor:
        """The contribution to the first tokens [B, T, E], which are then remembered."""
        self._stream.fill(x_BTE)
        groups = zip(self._layer.head_groups, self._memories, strict=True)
        return reduce(torch.add, [self._layer.read_first(x_BTE, *group) for group in groups])

    def projections(self, x_BTE: Tensor, context: Context) -> list[tuple[Tensor, ...]]:
        """Of this shard's tokens, for each memory what `fill` takes."""
        return [self._layer.projections(x_BTE, context, group) for group in self._layer.head_groups]

    def fill(self, projections: Sequence[tuple[Tensor, ...]], last_BTE: Tensor) -> None:
        """Remember the first tokens, whose contribution others have made.

        Args:
            projections: of all of them, as `projections` gives them.
            last_BTE: the stream of the last of them, as many as the convolution reaches back to.

        """
        self._stream.fill(last_BTE)
        for memory, tensors in zip(self._memories, projections, strict=True):
            memory.fill(tensors)

    def next(self, x_BE: Tensor, place: Place) -> Tensor:
        """The contribution to one token more [B, E], which is then remembered."""
        projected, backend, contributions = iter(self._stream.next(x_BE, self._weights)), self._stream.backend, []
        for group, memory, weight in zip(self._layer.head_groups, self._memories, self._output_weights, strict=True):
            names = group.kind.projections
            heads = [x_BN.view(len(x_BE), -1, self._config.head_width) for x_BN in islice(projected, len(names))]
            attended_BHD = memory.next(self._at_temperature(names, heads, group.heads), place)
            contributions.append(backend.next_product(attended_BHD.flatten(1), weight, None))
        return reduce(torch.add, contributions)

    def add_to(self, plan: DecodingPlan, longest: int) -> bool:
        """Add this layer to a plan, with room for a token at position `longest`; whether that has code for it."""
        if len(self._memories) > 1:
            return False
        temperature_H = self._layer.temperature if self._config.query_key_norm else None
        weights = AttentionWeights(self._weights, self._output_weights[0], temperature_H)
        self._memories[0].add_to(plan, self._stream.norm, weights, longest)
        return True

    def extend(self, others: Sequence["DecodingAttention"]) -> None:
        """Add the rows of others, of the same layer, behind its own."""
        self._stream.extend([other._stream for other in others])
        for index, memory in enumerate(self._memories):
            memory.extend([other._memories[index] for other in others])

    def take(self, rows_N: Tensor) -> None:
        """Go on with these rows, any number of times each."""
        self._stream.take(rows_N)
        for memory in self._memories:
            memory.take(rows_N)

    @property
    def num_bytes(self) -> int:
        """What its memories take."""
        return sum(memory.num_bytes for memory in self._memories)

    def _at_temperature(self, names: Sequence[str], heads: list[Tensor], own: slice) -> tuple[Tensor, ...]:
        """Projections [B, H, D] as they are attended."""
        if self._config.query_key_norm:
            temperature_H1 = self._layer.temperature[own, None]
            heads = [
                x if name == "value" else at_temperature(x, None if name == "key" else temperature_H1)
                for name, x in zip(names, heads, strict=True)
            ]
        return tuple(heads)
