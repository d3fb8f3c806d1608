"""Where the shards of a sequence meet in attention: the places at which a layer, or an LSH kind, calls its exchange.

In: tensors of this shard. Out: what other workers have made of theirs. Here is what a worker does that has its sequences for
itself; the exchanges of reformer_dist/parallel inherit it, and put something else into one of the places. `parallelize` puts
them into a model.

Legend: B batch, T tokens of this shard, H heads, D head dimension, R hash rounds.
"""

from typing import Any

from torch import Tensor

from reformer_dist.model.attention.lsh.call import LSHCall
from reformer_dist.model.budget import Budget
from reformer_dist.model.context import Context
from reformer_dist.model.reversible.borrowed_tokens import Neighbours


class Exchange(Neighbours):
    """How shards meet for attention and part again. All places are those of one worker; subclasses replace some.

    Around a window they meet as `Neighbours` do.
    """

    head_shards = 1
    """Workers among whom the heads of a head group are divided."""

    def elements_at_a_time(self, budget: Budget) -> int:
        """Of a tensor of queries; a head group is as large as that allows."""
        return budget.exchanged_elements

    def to_heads(self, tensors: tuple[Tensor, ...], context: Context) -> tuple[tuple[Tensor, ...], Context]:
        """Before attention: this shard's tensors [B, T, H, D], as the worker attends them, and where they lie then."""
        return tensors, context

    def to_shards(self, attended_BTHD: Tensor) -> Tensor:
        """After attention: results of what `to_heads` returned -> results of this shard's tokens and all heads."""
        return attended_BTHD

    def find_order(self, call: LSHCall, buckets_BHRT: Tensor) -> Any:
        """In LSH attention: what `attend_in_order` needs to know of the buckets. It is kept for the backward pass."""
        return buckets_BHRT

    def attend_in_order(self, call: LSHCall, order: Any) -> Tensor:
        """In LSH attention: the results [B, T, H, D] of all rounds together, by what `find_order` has found."""
        return call.attend(order)

    def gather(self, x: Tensor) -> Tensor:
        """For measuring LSH attention: the tensors of all shards in order, [P, ...]."""
        return x[None]


class NoExchange(Exchange):
    """Of a worker that has its sequences for itself."""

    def elements_at_a_time(self, budget: Budget) -> int:
        """See `Exchange`."""
        return budget.head_elements
