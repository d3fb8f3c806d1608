"""Blocks of an ordered list, and the masks that say which of their keys each query sees.

In: the entries (tokens or rows) of a list at their places, the segments that must agree, and a `Rule`. Out: `Stretch`es of
some blocks each.

Legend: N slices (heads of sequences) worked on together, S entries of a list or of a stretch of it, with the blocks around
its own, C blocks, W block length, K keys a block sees, D head dimension.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from reformer_dist.model.backends.description import NO_KEY, AttentionDropout, OrderedBlocks
from reformer_dist.model.backends.rules import Rule
from reformer_dist.model.randomness import pair_keep

_NO_QUERY = -2  # segment that equals no key's


@dataclass(frozen=True)
class Blocks:
    """How a stretch of a list is cut: `count` blocks of `length`, each seeing `before` and `after` blocks around it."""

    count: int
    length: int
    before: int
    after: int

    @property
    def num_keys(self) -> int:
        """Keys K that a block sees."""
        return (self.before + 1 + self.after) * self.length

    def queries(self, x_NS: Tensor) -> Tensor:
        """The blocks' own entries, [N, S, ...] -> [N, C, W, ...]; a view."""
        start = self.before * self.length
        return x_NS[:, start : start + self.count * self.length].unflatten(1, (self.count, self.length))

    def keys(self, x_NS: Tensor) -> Tensor:
        """The overlapping stretches that the blocks see, [N, S, ...] -> [N, C, K, ...]; a view, without a copy."""
        stride = x_NS.stride()
        shape = (x_NS.shape[0], self.count, self.num_keys, *x_NS.shape[2:])
        return x_NS.as_strided(shape, (stride[0], stride[1] * self.length, *stride[1:]), x_NS.storage_offset())

    def add_keys(self, x_NCKD: Tensor) -> Tensor:
        """The adjoint of `keys`: overlapping stretches summed into [N, S, D]."""
        N, C, K, D = x_NCKD.shape
        total_NSD = x_NCKD.new_zeros(N, C * self.length + K - self.length, D)
        for start in range(0, K, self.length):
            part_NQD = total_NSD[:, start : start + C * self.length]
            part_NQD.unflatten(1, (C, self.length)).add_(x_NCKD[:, :, start : start + self.length])
        return total_NSD


@dataclass(frozen=True)
class OrderedList:
    """One round's list for N slices: blocks of queries, and before and behind them as many blocks as the rule looks into."""

    entries_NS: Tensor
    """Token or row at each place; any number at places that hold none."""
    segments_NS: Tensor
    """What a query and a key must share, NO_KEY at places whose entry nobody sees."""
    hashes_NS: Tensor | None
    """Dropout hashes of the entries, int64; None without dropout."""


@dataclass(frozen=True)
class Stretch:
    """Some blocks of a list and what attention over them needs beside vectors."""

    blocks: Blocks
    places: slice
    """Of the list, with the blocks around its own."""
    entries_NS: Tensor
    """Token or row at each of the places."""
    mask_NCWK: Tensor
    """Added to the scores: -inf where a query may not look, else 0 or a correction."""
    keep_NCWK: Tensor | None = None
    """Dropout multipliers of the weights; None without dropout."""
    num_self_NCW: Tensor | None = None
    """How often a query meets its own token, where the rule has a masked self score; else None."""


def stretches(
    ordered: OrderedList, description: OrderedBlocks, dtype: torch.dtype, slices_counted: int
) -> Iterator[Stretch]:
    """Cut a list into stretches whose masks are of `dtype`, the shorter, the more slices are counted."""
    rule = description.rule
    around, W = rule.before + rule.after, rule.block
    num_blocks = ordered.entries_NS.shape[1] // W - around
    step = max(1, description.budget.stretch_entries // (W * slices_counted))
    for start in range(0, num_blocks, step):
        blocks = Blocks(min(step, num_blocks - start), W, rule.before, rule.after)
        places = slice(start * W, (start + blocks.count + around) * W)
        entries_NS, segments_NS = ordered.entries_NS[:, places], ordered.segments_NS[:, places]
        visible, num_self_NCW = _visible(rule, blocks, entries_NS, segments_NS)
        mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, -torch.inf)
        keep = None
        if ordered.hashes_NS is not None and description.dropout is not None:
            keep = _pair_keep(description.dropout, blocks, ordered.hashes_NS[:, places], dtype)
        yield Stretch(blocks, places, entries_NS, mask, keep, num_self_NCW)


def _visible(rule: Rule, blocks: Blocks, entries_NS: Tensor, segments_NS: Tensor) -> tuple[Tensor, Tensor | None]:
    """Which query sees which key [N, C, W, K], and how often it meets its own token where that is asked [N, C, W]."""
    query_NCW1 = blocks.queries(segments_NS.where(segments_NS != NO_KEY, _NO_QUERY))[..., None]
    visible = query_NCW1 == blocks.keys(segments_NS)[:, :, None, :]
    if rule.reach is not None:
        return visible.logical_and_(_within_reach(rule, rule.reach, blocks, segments_NS.device)), None
    num_self_NCW = None
    if rule.compare != "any":
        query, key = blocks.queries(entries_NS)[..., None], blocks.keys(entries_NS)[:, :, None, :]
        if rule.masked_self_score:
            num_self_NCW = (visible & (key == query)).sum(-1).clamp_(min=1)
        visible &= {"earlier": key.lt, "other": key.ne, "up to": key.le}[rule.compare](query)
    return visible, num_self_NCW


def _within_reach(rule: Rule, reach: tuple[int, int], blocks: Blocks, device: torch.device) -> Tensor:
    """Whether a query sees a key by its place alone, [W, K]; an entry stands at one place, so "other" is another place."""
    query_W1 = torch.arange(blocks.length, device=device)[:, None] + blocks.before * blocks.length
    back_WK = query_W1 - torch.arange(blocks.num_keys, device=device)
    within_WK = (back_WK >= reach[0]) & (back_WK <= reach[1])
    return within_WK & (back_WK != 0) if rule.compare == "other" else within_WK


def _pair_keep(dropout: AttentionDropout, blocks: Blocks, hashes_NS: Tensor, dtype: torch.dtype) -> Tensor:
    query, key = blocks.queries(hashes_NS)[..., None], blocks.keys(hashes_NS)[:, :, None, :]
    return pair_keep(query, key, dropout.probability, dtype)
