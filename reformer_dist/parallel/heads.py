"""Attention over a sharded sequence by dividing the heads (Ulysses, Jacobs et al. 2023).

In: this shard's tensors of some heads. Out: the whole sequence's of a part of those heads, by an all-to-all; after attention
another brings the results back. Any attention kind; at most as many workers as heads.

Legend: B batch, t tokens of this shard, T of all shards of the group, H heads, D head dimension, P workers, n tensors.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from reformer_dist.model.attention.exchange import Exchange
from reformer_dist.model.attention.lsh.call import LSHCall
from reformer_dist.model.context import Context
from reformer_dist.parallel.collectives import Peers, all_gather, all_to_all


class HeadsExchange(Exchange):
    """A worker attends the tokens of its group, with H / P of the heads."""

    def __init__(self, peers: Peers, length: int | None, within: Exchange) -> None:
        """Divide heads over a group.

        Args:
            peers: the workers that divide the heads of the same tokens, in the order of their shards.
            length: tokens of the whole sequence without padding; None where the group holds only a part of it.
            within: how workers meet that hold the same heads of other tokens.

        """
        self.peers, self.length, self.within = peers, length, within
        self.num_workers, self.rank = peers.num_workers, peers.rank
        self.head_shards = self.num_workers

    def to_heads(self, tensors: tuple[Tensor, ...], context: Context) -> tuple[tuple[Tensor, ...], Context]:
        """[B, t, H, D] of this shard -> [B, T, H / P, D] of this worker's part of these heads, each; views where B is 1."""
        by_heads = [x_BtHD.unflatten(2, (self.num_workers, -1)).movedim(2, 0) for x_BtHD in tensors]
        by_shards = all_to_all(torch.stack(by_heads, dim=3), self.peers)  # [P, B, t, n, H / P, D]
        by_worker = by_shards.movedim(0, 1).flatten(1, 2)[:, : self.length].unbind(2)
        return by_worker, self._whole(context, tensors[0])

    def to_shards(self, attended_BTHD: Tensor) -> Tensor:
        """[B, T, H / P, D] -> [B, t, H, D]."""
        padded = pad(attended_BTHD, (0, 0, 0, 0, 0, -attended_BTHD.shape[1] % self.num_workers))
        by_shards = padded.unflatten(1, (self.num_workers, -1)).movedim(1, 0)
        by_heads = all_to_all(by_shards, self.peers)  # [P, B, t, H / P, D]
        return by_heads.movedim(0, 2).flatten(2, 3)

    def find_order(self, call: LSHCall, buckets_BHRT: Tensor) -> Any:
        """See `Exchange`."""
        return self.within.find_order(call, buckets_BHRT)

    def attend_in_order(self, call: LSHCall, order: Any) -> Tensor:
        """See `Exchange`."""
        return self.within.attend_in_order(call, order)

    def gather(self, x: Tensor) -> Tensor:
        """See `Exchange`; of the shards within, since this worker has the group's tokens."""
        return self.within.gather(x)

    def _whole(self, context: Context, x_BtHD: Tensor) -> Context:
        documents_BT = context.documents_BT
        if documents_BT is not None:
            gathered = all_gather(documents_BT, self.peers)  # [P, B, t]
            documents_BT = gathered.movedim(0, 1).flatten(1)[:, : self.length]
        t, H = x_BtHD.shape[1:3]
        return replace(
            context,
            documents_BT=documents_BT,
            first_position=context.first_position - self.rank * t,
            first_head=context.first_head + self.rank * (H // self.num_workers),
        )
