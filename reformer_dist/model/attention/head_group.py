"""Heads of an attention layer that are worked on at a time: all of one kind, with the exchange that their shards use.

In: projections [B, T, H, D] of these heads and this shard. Out: their results, whichever worker attended them.

Legend: B batch, T tokens of this shard, H heads, D head dimension.
"""

from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from reformer_dist.model.attention.exchange import Exchange, NoExchange
from reformer_dist.model.attention.kind import Kind
from reformer_dist.model.budget import Budget
from reformer_dist.model.context import Context


@dataclass(frozen=True)
class HeadGroup:
    """Some heads of a layer."""

    kind: Kind
    """What they compute."""
    heads: slice
    """First and last + 1 of them in the layer."""
    exchange: Exchange = field(default_factory=NoExchange)
    """How the shards of their sequences meet; `parallelize` puts it in."""

    def fitting(self, num_tokens: int, budget: Budget) -> list["HeadGroup"]:
        """These heads in groups of as many as the budget allows at a time: fewer, the longer the sequence."""
        shards = self.exchange.head_shards
        fitting = self.exchange.elements_at_a_time(budget) // (num_tokens * self.kind.config.head_width)
        count = max(1, fitting // shards) * shards
        first, last = self.heads.start, self.heads.stop
        return [replace(self, heads=slice(start, min(start + count, last))) for start in range(first, last, count)]

    def attend(self, tensors: tuple[Tensor, ...], context: Context, found: Any, training: bool) -> tuple[Tensor, Any]:
        """Attend over the tokens of all shards.

        Args:
            tensors: the kind's projections of these heads, each [B, T, H, D].
            context: place of the tokens.
            found: see `Kind.attend`; where workers divide the heads, it is of this worker's part.
            training: see `Kind.attend`.

        Returns:
            [B, T, H, D], and what was found.

        """
        context = replace(context, first_head=context.first_head + self.heads.start)
        tensors, context = self.exchange.to_heads(tensors, context)
        attended_BTHD, found = self.kind.attend(tensors, context, found, training, self.exchange)
        del tensors  # may be freed before results travel
        return self.exchange.to_shards(attended_BTHD), found
