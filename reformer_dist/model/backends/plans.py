"""Plans for block attention: the order of tokens in each round, and which of the neighbouring blocks' keys a query sees.

In: buckets, documents and a `Rule`. Out: the `Stretch`es that `block_attention` works through.

Legend: B batch, T tokens, H heads, R rounds, N slices (heads of sequences), S entries of a stretch with its neighbours,
C blocks, W block length, K keys a block sees.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from reformer_dist.model.backends.plain.blocks import Blocks, Stretch
from reformer_dist.model.context import Context
from reformer_dist.model.randomness import mix, pair_keep, token_hash

PADDING = -1  # document of tokens that are only padding
_NO_KEY, _NO_QUERY = -1, -2  # segments that equal no other
_LAST = (1 << 31) - 1  # segment by which padding sorts behind everything
_ENTRIES_IN_A_STRETCH = 1 << 14  # bounds the memory of a long sequence's masks and scores


@dataclass(frozen=True)
class Rule:
    """Which keys a query sees, given the blocks around it."""

    block: int
    """Block length W."""
    before: int
    """Blocks before its own that a query looks into."""
    after: int
    """Blocks behind its own that a query looks into."""
    reach: tuple[int, int] | None
    """Smallest and largest distance back in the list, query place - key place; None for all of the blocks."""
    compare: Literal["earlier", "other", "up to", "any"]
    """Which positions a key may have: before the query's, any but it, up to and with it, or any."""
    same_bucket: bool = True
    """Whether a query and a key must share the bucket; the document they always share."""
    circular: bool = False
    """Whether blocks wrap around, over the rounds one behind the other, as in trax and Hugging Face."""
    empty: int = 0
    """Blocks without tokens behind each round's own; wrapping around, the next round's first block sees them."""
    once: bool = False
    """Whether a pair that meets in several rounds counts once (the paper's N_ij) or every time."""
    masked_self_score: bool = False
    """Whether lonely tokens mix as Hugging Face's do, by a self score of -1e5 with its rounding, or exactly."""


def window_rule(window: int, causal: bool, length: int, with_self: bool) -> Rule:
    """The last `window` keys, on both sides when not causal; `with_self` counts the token itself among them."""
    window = min(window, length)
    block = min(max(window // 2, 16), length, 256)
    furthest = window - 1 if with_self and causal else window
    blocks = math.ceil(furthest / block)
    if causal:
        return Rule(block, blocks, 0, (0 if with_self else 1, furthest), "any")
    return Rule(block, blocks, blocks, (-furthest, furthest), "any" if with_self else "other")


def chunked_rule(
    chunk: int,
    neighbours: tuple[int, int],
    length: int,
    padded_length: int | None,
    compare: Literal["earlier", "other", "up to", "any"],
    *,
    masked_self_score: bool = False,
) -> Rule:
    """Chunks in a circle, whatever the bucket. A sequence padded to one chunk has no neighbours: no chunk meets itself.

    `padded_length` is at least `length`, by default the next multiple of the chunk. Of the chunks of padding behind the
    sequence's own, only as many matter as a query looks past.
    """
    own = math.ceil(length / chunk)
    total = max(own, math.ceil((padded_length or length) / chunk))
    before, after = neighbours if total > 1 else (0, 0)
    empty = min(total - own, max(before, after))
    return Rule(
        chunk,
        before,
        after,
        None,
        compare,
        same_bucket=False,
        circular=True,
        empty=empty,
        masked_self_score=masked_self_score,
    )


@dataclass(frozen=True)
class AttentionDropout:
    """Dropout of attention weights, keyed by head and the global positions of query and key."""

    probability: float
    key: int


class SegmentPlan:
    """A plan that orders each round by (document, bucket, position)."""

    def __init__(
        self,
        rule: Rule,
        v_BTHD: Tensor,
        context: Context,
        buckets_BHRT: Tensor | None = None,
        num_buckets: int = 1,
        dropout: AttentionDropout | None = None,
    ) -> None:
        """Make the plan.

        Args:
            rule: who sees whom.
            v_BTHD: values, for their shape, dtype and device.
            context: documents, and the shard's place for dropout.
            buckets_BHRT: LSH buckets of every round; None for one round in the given order.
            num_buckets: buckets of a round.
            dropout: None for none.

        """
        self.num_rounds = 1 if buckets_BHRT is None else buckets_BHRT.shape[2]
        self.rule, self.dropout, self._context = rule, dropout, context
        self._buckets_BHRT, self._num_buckets = buckets_BHRT, num_buckets
        self._B, self._T, self._H, _ = v_BTHD.shape
        self._dtype, self._device = v_BTHD.dtype, v_BTHD.device
        self._num_blocks = math.ceil(self._T / rule.block) + rule.empty
        self._orders: dict[tuple[int, int], Tensor] = {}

    def stretches(self, first: int, last: int, index: int) -> Iterator[Stretch]:
        """The blocks of round `index` for the slices first..last-1, some at a time."""
        rule, W = self.rule, self.rule.block
        tokens_NL, segments_NL = self._list(first, last, index)
        step = max(1, _ENTRIES_IN_A_STRETCH // W)
        for start in range(0, self._num_blocks, step):
            blocks = Blocks(min(step, self._num_blocks - start), W, rule.before, rule.after)
            part = slice(start * W, (start + rule.before + blocks.count + rule.after) * W)
            yield self._stretch(blocks, tokens_NL[:, part], segments_NL[:, part], first, last)

    def own_keep(self, first: int, last: int) -> Tensor | None:
        """Dropout multipliers of a token's weight on itself, [N, T]."""
        if self.dropout is None:
            return None
        hashes_NT = self._token_hashes(first, last)
        return pair_keep(hashes_NT, hashes_NT, self.dropout.probability, self._dtype)

    def sorted_round(self, index: int) -> tuple[Tensor, Tensor | None]:
        """Tokens of round `index` in order, for all slices, and the segment of each place.

        Both are [N, T]; segments are small integers that must agree, -1 for padding, and None where all are one.
        """
        slices = (0, self._B * self._H)
        tokens_NT = self._sort(*slices, index)
        if not self.rule.same_bucket or self._buckets_BHRT is None:
            if self._context.documents_BT is None:
                return tokens_NT, None
            segments_NT = self._documents(*slices).gather(1, tokens_NT)
            return tokens_NT, segments_NT.masked_fill(segments_NT == _LAST, _NO_KEY)
        segments_NT = self._segments(*slices, index).gather(1, tokens_NT)
        is_new_NT = segments_NT[:, 1:] != segments_NT[:, :-1]
        ranks_NT = pad(is_new_NT.cumsum(1), (1, 0))
        return tokens_NT, ranks_NT.masked_fill(segments_NT == _LAST, _NO_KEY)

    def token_hashes(self) -> Tensor:
        """A hash of (row, position, head) for every token, for dropout, [N, T] int64."""
        return self._token_hashes(0, self._B * self._H)

    def _stretch(self, blocks: Blocks, tokens_NS: Tensor, segments_NS: Tensor, first: int, last: int) -> Stretch:
        rule = self.rule
        query_NCW1 = blocks.queries(segments_NS.where(segments_NS != _NO_KEY, _NO_QUERY))[..., None]
        visible = query_NCW1 == blocks.keys(segments_NS)[:, :, None, :]
        if rule.reach is not None:
            visible &= self._within_reach(blocks)
        num_self_NCW = None
        if rule.compare != "any":
            query, key = blocks.queries(tokens_NS)[..., None], blocks.keys(tokens_NS)[:, :, None, :]
            if rule.masked_self_score:
                num_self_NCW = (visible & (key == query)).sum(-1).clamp_(min=1)
            visible &= {"earlier": key.lt, "other": key.ne, "up to": key.le}[rule.compare](query)
        mask = torch.zeros(visible.shape, dtype=self._dtype, device=self._device).masked_fill_(~visible, -torch.inf)
        if rule.once and self.num_rounds > 1:
            mask -= self._log_meetings(blocks, tokens_NS, first, last)
        return Stretch(blocks, tokens_NS, mask, self._pair_keep(blocks, tokens_NS, first, last), num_self_NCW)

    def _list(self, first: int, last: int, index: int) -> tuple[Tensor, Tensor]:
        """Token at every place of a round's whole list with its neighbours, [N, L], and the token's segment."""
        rule, T, W = self.rule, self._T, self.rule.block
        filled = self._num_blocks * W
        places_L = torch.arange(-rule.before * W, filled + rule.after * W, device=self._device)
        if rule.circular:
            places_L = (places_L + index * filled) % (self.num_rounds * filled)
            orders_NRT = torch.stack([self._order(first, last, r) for r in range(self.num_rounds)], dim=1)
            tokens_NL = orders_NRT[:, places_L // filled, (places_L % filled).clamp(max=T - 1)].long()
            places_L = places_L % filled
        else:
            tokens_NL = self._order(first, last, index)[:, places_L.clamp(0, T - 1)].long()
        segments_NT = self._segments(first, last, index) if rule.same_bucket else self._documents(first, last)
        real_L = (places_L >= 0) & (places_L < T)
        segments_NL = segments_NT.gather(1, tokens_NL)
        segments_NL = segments_NL.where(real_L & (segments_NL != _LAST), _NO_KEY)
        return tokens_NL.where(real_L, T), segments_NL

    def _order(self, first: int, last: int, index: int) -> Tensor:
        """Tokens of a round in order, [N, T] int32; kept, since the backward pass asks again."""
        if (first, index) not in self._orders:
            self._orders[first, index] = self._sort(first, last, index).int()
        return self._orders[first, index]

    def _sort(self, first: int, last: int, index: int) -> Tensor:
        positions_T = torch.arange(self._T, device=self._device)
        if self._buckets_BHRT is None:
            return positions_T.expand(last - first, self._T)
        return torch.sort(self._segments(first, last, index) * self._T + positions_T).values % self._T

    def _documents(self, first: int, last: int) -> Tensor:
        """Document of every token, [N, T] int64."""
        documents_BT = self._context.documents_BT
        if documents_BT is None:
            return torch.zeros(1, 1, dtype=torch.int64, device=self._device).expand(last - first, self._T)
        sequences_N = torch.arange(first, last, device=self._device) // self._H
        documents_NT = documents_BT[sequences_N]
        return documents_NT.masked_fill(documents_NT == PADDING, _LAST)

    def _segments(self, first: int, last: int, index: int) -> Tensor:
        """(document, bucket) of every token as one number, [N, T] int64."""
        documents_NT = self._documents(first, last)
        if self._buckets_BHRT is None:
            return documents_NT
        buckets_NT = self._buckets_BHRT[:, :, index].flatten(0, 1)[first:last].long()
        return (documents_NT * self._num_buckets + buckets_NT).masked_fill_(documents_NT == _LAST, _LAST)

    def _log_meetings(self, blocks: Blocks, tokens_NS: Tensor, first: int, last: int) -> Tensor:
        """Log of the number of rounds in which a query and a key meet: the paper's N_ij, at least 1."""
        meetings = torch.zeros(1, dtype=self._dtype, device=self._device)
        chunks_T = torch.arange(self._T, device=self._device) // self.rule.block
        carry = self._num_blocks + 2  # no chunk number reaches it, so that (segment, chunk) as one number is exact
        for index in range(self.num_rounds):
            order_NT = self._order(first, last, index).long()
            chunk_NT = torch.empty_like(order_NT).scatter_(1, order_NT, chunks_T.expand_as(order_NT))
            code_NT = self._segments(first, last, index) * carry + chunk_NT
            code_NS = code_NT.gather(1, tokens_NS.clamp(max=self._T - 1))
            back = blocks.queries(code_NS)[..., None] - blocks.keys(code_NS)[:, :, None, :]
            meetings = meetings + ((back <= self.rule.before) & (back >= -self.rule.after))
        return meetings.clamp_(min=1).log_()

    def _within_reach(self, blocks: Blocks) -> Tensor:
        """Whether a key is within reach by its place alone, [W, K]."""
        assert self.rule.reach is not None
        nearest, furthest = self.rule.reach
        query_W1 = torch.arange(blocks.length, device=self._device)[:, None] + blocks.before * blocks.length
        back_WK = query_W1 - torch.arange(blocks.num_keys, device=self._device)
        return (back_WK >= nearest) & (back_WK <= furthest)

    def _pair_keep(self, blocks: Blocks, tokens_NS: Tensor, first: int, last: int) -> Tensor | None:
        if self.dropout is None:
            return None
        hashes_NS = self._token_hashes(first, last).gather(1, tokens_NS.clamp(max=self._T - 1))
        query, key = blocks.queries(hashes_NS)[..., None], blocks.keys(hashes_NS)[:, :, None, :]
        return pair_keep(query, key, self.dropout.probability, self._dtype)

    def _token_hashes(self, first: int, last: int) -> Tensor:
        """A hash of (row, position, head) for every token, [N, T] int64."""
        assert self.dropout is not None
        context, shape = self._context, (self._B, self._T)
        hashes_BT = token_hash(self.dropout.key, context.first_row, context.first_position, shape, self._device)
        slices_N = torch.arange(first, last, device=self._device)
        return mix(hashes_BT[slices_N // self._H] + (slices_N % self._H + context.first_head)[:, None])
