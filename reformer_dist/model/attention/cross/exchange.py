"""Where the shards of a source meet in cross-attention; here of a worker that has its sources for itself.

In: keys or values of this shard of the source. Out: those of all shards, and gradients on the way back. Queries stay where
they are: a worker attends those of its own shard of the target. `parallelize` puts another exchange in.

Legend: B batch, s tokens of this shard of the source, S of all its shards.
"""

from torch import Tensor


class SourceExchange:
    """How shards of a source meet."""

    num_shards = 1
    """Workers that share a source."""

    def gather(self, x_Bs: Tensor) -> Tensor:
        """The tokens of all shards in order, [B, S, ...]; differentiable."""
        return x_Bs

    def give_back(self, grad_BS: Tensor) -> Tensor:
        """What all workers have found as gradients of this shard's tokens, summed, [B, s, ...]."""
        return grad_BS
