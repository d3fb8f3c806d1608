"""Attention over a sequence whose shards lie on several workers, equal to one worker's.

In: this shard's queries, keys and values of some heads. Out: this shard's outputs. Each class wraps an attention core. Local
attention in window mode needs neither, see neighbours.py.

- `HeadsExchange` (Ulysses, Jacobs et al. 2023): an all-to-all gives each worker the whole sequence for its part of the
  heads, another brings the outputs back. Any attention; at most as many workers as heads.
- `BucketsExchange`: each round's tokens travel to their sorted place. LSH attention in window mode; any number of workers.

Legend: B batch, t tokens of this shard, T of all shards of the group, H heads, D head dimension, P workers, n tensors.
"""

import math
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import pad

from reformer_dist.model.attention.layer import Core, LSHCore, attention_dropout
from reformer_dist.model.backends.rules import window_rule
from reformer_dist.model.context import Context
from reformer_dist.model.randomness import pair_keep, scramble, token_hash
from reformer_dist.parallel.buckets.attention import Settings, bucket_attention
from reformer_dist.parallel.buckets.routing import Route, Router
from reformer_dist.parallel.collectives import Traffic, all_gather, all_to_all

_ENTRIES_AT_A_TIME = 1 << 13  # tokens times slices that are under way at a time


class HeadsExchange:
    """Wraps an attention core, which then sees the group's tokens and H / P heads."""

    def __init__(self, core: Core, group: dist.ProcessGroup, traffic: Traffic, length: int | None) -> None:
        """Wrap `core`; `length` is the whole sequence's without padding, None where the group holds only a part of it."""
        self.core, self.group, self.traffic, self.length = core, group, traffic, length
        self.num_workers, self.rank = dist.get_world_size(group), dist.get_rank(group)
        self.head_shards = self.num_workers

    def __call__(self, tensors: tuple[Tensor, ...], context: Context, found: Any, training: bool) -> tuple[Tensor, Any]:
        """See `Core`; what was found is of this worker's heads and the group's tokens."""
        out_BTHD, found = self.core(self._to_heads(tensors), self._whole(context, tensors[0]), found, training)
        return self._to_shards(out_BTHD), found

    def _to_heads(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """[B, t, H, D] of this shard -> [B, T, H / P, D] of this worker's part of these heads, each; views where B is 1."""
        by_heads = [x_BtHD.unflatten(2, (self.num_workers, -1)).movedim(2, 0) for x_BtHD in tensors]
        by_shards = all_to_all(torch.stack(by_heads, dim=3), self.group, self.traffic)  # [P, B, t, n, H / P, D]
        return by_shards.movedim(0, 1).flatten(1, 2)[:, : self.length].unbind(2)

    def _to_shards(self, x_BTHD: Tensor) -> Tensor:
        """[B, T, H / P, D] -> [B, t, H, D]."""
        padded = pad(x_BTHD, (0, 0, 0, 0, 0, -x_BTHD.shape[1] % self.num_workers))
        by_shards = padded.unflatten(1, (self.num_workers, -1)).movedim(1, 0)
        by_heads = all_to_all(by_shards, self.group, self.traffic)  # [P, B, t, H / P, D]
        return by_heads.movedim(0, 2).flatten(2, 3)

    def _whole(self, context: Context, x_BtHD: Tensor) -> Context:
        documents_BT = context.documents_BT
        if documents_BT is not None:
            gathered = all_gather(documents_BT, self.group, self.traffic)  # [P, B, t]
            documents_BT = gathered.movedim(0, 1).flatten(1)[:, : self.length]
        t, H = x_BtHD.shape[1:3]
        return replace(
            context,
            documents_BT=documents_BT,
            first_position=context.first_position - self.rank * t,
            first_head=context.first_head + self.rank * (H // self.num_workers),
        )


class BucketsExchange:
    """Replaces an LSH core: tokens travel to their sorted place in every round. What it finds and reuses are routes."""

    head_shards = 1

    def __init__(self, core: LSHCore, group: dist.ProcessGroup, traffic: Traffic) -> None:
        """Take the settings of `core`."""
        self.core, self.group, self.traffic = core, group, traffic

    def __call__(
        self, tensors: tuple[Tensor, ...], context: Context, found: list[Route] | None, training: bool
    ) -> tuple[Tensor, list[Route]]:
        """See `Core`."""
        qk_BtHD, v_BtHD = tensors
        config = self.core.config
        t = qk_BtHD.shape[1]
        rule = window_rule(config.lsh_window, config.causal, t, with_self=False)
        dropout = attention_dropout(config, self.core.layer, context, training)
        hashes_BtH = None
        if dropout is not None:
            hashes_BtH = _head_hashes(dropout.key, context, qk_BtHD)
        if found is None:
            buckets_BHRt = self.core.hash(qk_BtHD, context, training)
            self.core.show(qk_BtHD, buckets_BHRt, context, training, self._gather)
            router = Router(rule, self.group, self.traffic, _ENTRIES_AT_A_TIME)
            hashes_Nt = None if hashes_BtH is None else hashes_BtH.transpose(1, 2).flatten(0, 1)
            found = router.routes(buckets_BHRt, context.documents_BT, math.prod(config.bucket_factors), hashes_Nt)
        own_keep_BtH = None
        if dropout is not None and hashes_BtH is not None:
            scrambled_BtH = scramble(hashes_BtH)
            own_keep_BtH = pair_keep(scrambled_BtH, scrambled_BtH, dropout.probability, v_BtHD.dtype)
        settings = Settings(rule, self.group, self.traffic, dropout, config.attention_kernel)
        return bucket_attention(qk_BtHD, v_BtHD, found, own_keep_BtH, settings), found

    def _gather(self, x: Tensor) -> Tensor:
        return all_gather(x, self.group, self.traffic)


def _head_hashes(key: int, context: Context, x_BtHD: Tensor) -> Tensor:
    """Dropout hashes of (row, position, head), [B, t, H], as `Orders` draws them before it scrambles them."""
    B, t, H, _ = x_BtHD.shape
    hashes_Bt = token_hash(key, context.first_row, context.first_position, (B, t), x_BtHD.device)
    return hashes_Bt[..., None] + torch.arange(context.first_head, context.first_head + H, device=x_BtHD.device)
