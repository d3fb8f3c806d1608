"""Attention over a sequence whose shards lie on several workers, equal to one worker's.

In: this shard's queries, keys and values for all heads. Out: this shard's outputs. `HeadsExchange` (Ulysses, Jacobs et al.
2023): an all-to-all gives each worker the whole sequence for its part of the heads, another brings the outputs back.

Legend: B batch, t tokens of this shard, T of the whole sequence, H heads, D head dimension, P workers, n tensors.
"""

from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import pad

from reformer_dist.model.attention import Core
from reformer_dist.model.context import Context
from reformer_dist.parallel.collectives import all_gather, all_to_all


class HeadsExchange:
    """Wraps an attention core, which then sees whole sequences and H / P heads."""

    def __init__(self, core: Core, group: dist.ProcessGroup, sequence_length: int) -> None:
        """Wrap `core`; `sequence_length` is T without the padding that makes shards equal."""
        self.core, self.group, self.sequence_length = core, group, sequence_length
        self.num_shards, self.shard = dist.get_world_size(group), dist.get_rank(group)

    def __call__(
        self, tensors: tuple[Tensor, ...], context: Context, buckets_BHRT: Tensor | None, training: bool
    ) -> tuple[Tensor, Tensor | None]:
        """See `Core`; the buckets are those of this worker's heads and the whole sequence."""
        whole = tuple(self._to_heads(torch.stack(tensors)).unbind())
        out_BTHD, buckets_BHRT = self.core(whole, self._whole(context, tensors[0]), buckets_BHRT, training)
        return self._to_shards(out_BTHD), buckets_BHRT

    def _to_heads(self, x_nBtHD: Tensor) -> Tensor:
        """[n, B, t, H, D] of this shard -> [n, B, T, H / P, D] of this worker's heads."""
        by_heads = torch.stack(x_nBtHD.chunk(self.num_shards, dim=3))
        by_shards = all_to_all(by_heads, self.group)  # [P, n, B, t, H / P, D]
        return by_shards.movedim(0, 2).flatten(2, 3)[:, :, : self.sequence_length]

    def _to_shards(self, x_BTHD: Tensor) -> Tensor:
        """[B, T, H / P, D] -> [B, t, H, D]."""
        padded = pad(x_BTHD, (0, 0, 0, 0, 0, -x_BTHD.shape[1] % self.num_shards))
        by_shards = torch.stack(padded.chunk(self.num_shards, dim=1))
        by_heads = all_to_all(by_shards, self.group)  # [P, B, t, H / P, D]
        return by_heads.movedim(0, 2).flatten(2, 3)

    def _whole(self, context: Context, x_BtHD: Tensor) -> Context:
        documents_BT = context.documents_BT
        if documents_BT is not None:
            gathered = all_gather(documents_BT, self.group)  # [P, B, t]
            documents_BT = gathered.movedim(0, 1).flatten(1)[:, : self.sequence_length]
        first_head = self.shard * (x_BtHD.shape[2] // self.num_shards)
        return replace(context, documents_BT=documents_BT, first_position=0, first_head=first_head)
