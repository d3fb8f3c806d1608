"""Cross-attention to a sharded source: every worker gets the keys and values of all shards, some heads at a time.

In: keys or values of this shard of the source. Out: those of all shards, for the queries of this worker's shard of the
target; their gradients travel back to the workers that sent them. Any number of workers, whatever exchange self-attention
uses. What a worker holds of the whole source is as much as `Budget.head_elements` allows, one head at least.

Legend: B batch, s tokens of this shard of the source, S of all its shards, P workers.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from reformer_dist.model.attention.cross.exchange import SourceExchange
from reformer_dist.parallel.collectives import Peers, all_gather, all_to_all


class GatheredSources(SourceExchange):
    """Workers that share a source give each other their shards."""

    def __init__(self, peers: Peers) -> None:
        """Share sources with these workers, in the order of their shards."""
        self.peers = replace(peers, mailbox=None)  # shared memory would come to hold whole sources
        self.num_shards = peers.num_workers

    def gather(self, x_Bs: Tensor) -> Tensor:
        """See `SourceExchange`."""
        return _Gather.apply(x_Bs, self) if x_Bs.is_floating_point() else self.fetch(x_Bs)

    def give_back(self, grad_BS: Tensor) -> Tensor:
        """See `SourceExchange`."""
        by_shard = grad_BS.unflatten(1, (self.num_shards, -1)).movedim(1, 0)
        return all_to_all(by_shard, self.peers).sum(0)

    def fetch(self, x_Bs: Tensor) -> Tensor:
        """`gather` without a gradient."""
        return all_gather(x_Bs, self.peers).movedim(0, 1).flatten(1, 2)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_Bs: Tensor, exchange: GatheredSources) -> Tensor:
        ctx.exchange = exchange
        return exchange.fetch(x_Bs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_BS: Tensor) -> tuple[Tensor, None]:
        return ctx.exchange.give_back(grad_BS), None
