"""The plain backend over whole sequences: attention in blocks of ordered lists, combined over several orders (hash rounds).

In: queries, keys and values [B, T, H, D], and `OrderedTokens` that say how each round's tokens are ordered and which keys of
the neighbouring blocks a query may see. Out: [B, T, H, D], in memory that does not grow with the rounds. LSH and local
attention in all their modes are this one operation.

The backward pass of a round is ordinary attention's, given the *combined* output and the *combined* log-sum-exp L:
exp(S - L) is a pair's weight in the final combination, so the gradient through the rounds' weights needs no further term.
Only the output, L and the orders are kept.

Legend: B batch, T tokens, H heads, D head dimension, N slices (a head of a sequence) worked on together, C blocks,
W block length, S entries of a stretch of the list with its neighbours, Q = C * W of them queries, K keys a block sees.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from reformer_dist.model.backends.description import OrderedTokens
from reformer_dist.model.backends.packing import statistics_dtype
from reformer_dist.model.backends.plain.arithmetic import Arithmetic
from reformer_dist.model.backends.plain.blocks import Stretch
from reformer_dist.model.backends.plain.combination import RunningCombination, masked_self_weight
from reformer_dist.model.backends.plain.token_lists import TokenLists
from reformer_dist.model.keeping import Kept, Results, found_or_made


def attend_in_blocks(
    q_BTHD: Tensor, k_BTHD: Tensor, v_BTHD: Tensor, blocks: OrderedTokens, arithmetic: Arithmetic
) -> Tensor:
    """Attend in all rounds; scores are q . k. A token that sees no key in any round returns its own value.

    Args:
        q_BTHD: queries, float32, float64 or bfloat16; keys and values have the same shape and dtype.
        k_BTHD: keys.
        v_BTHD: values.
        blocks: orders and rule.
        arithmetic: what computes a stretch of blocks.

    Returns:
        [B, T, H, D] in the dtype of the values.

    """
    return _BlockAttention.apply(q_BTHD, k_BTHD, v_BTHD, TokenLists(blocks, v_BTHD), arithmetic, blocks.kept)


class _BlockAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, lists: TokenLists, arithmetic: Arithmetic, kept: Kept | None
    ) -> Tensor:
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        make = partial(_attended, q, k, v, lists, arithmetic)
        results = found_or_made(kept, "attention", "attention", make)
        ctx.save_for_backward(q, k, v, *results)
        ctx.lists, ctx.arithmetic = lists, arithmetic
        return results[0].detach()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse_NT, lonely_NT = ctx.saved_tensors
        grad_out = grad_out.contiguous()
        B, T, H, _ = q.shape
        dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for first, last in _groups(B * H, T, ctx.lists.budget.sliced_entries):
            rows = _Rows(first, last, q)
            _add(dv, rows.all_NT, _take(grad_out, rows.all_NT) * lonely_NT[first:last, :, None].to(v.dtype))
            for index in range(ctx.lists.num_rounds):
                for part in ctx.lists.stretches(first, last, index):
                    blocks, rows_NS = part.blocks, rows.of(part.entries_NS)
                    lse_NS = lse_NT[first:last].gather(1, part.entries_NS.clamp(max=T - 1))
                    query_NCWD, out_NCWD, grad_NCWD = (blocks.queries(_take(x, rows_NS)) for x in (q, out, grad_out))
                    key_NCKD, value_NCKD = (blocks.keys(_take(x, rows_NS)) for x in (k, v))
                    dq_NCWD, dk_NCKD, dv_NCKD = ctx.arithmetic.backward(
                        grad_NCWD,
                        query_NCWD,
                        key_NCKD,
                        value_NCKD,
                        out_NCWD,
                        blocks.queries(lse_NS),
                        part.mask_NCWK,
                        part.keep_NCWK,
                    )
                    _add(dq, blocks.queries(rows_NS).flatten(1), dq_NCWD.flatten(1, 2))
                    _add(dk, rows_NS, blocks.add_keys(dk_NCKD))
                    _add(dv, rows_NS, blocks.add_keys(dv_NCKD))
        return dq, dk, dv, None, None, None


def _attended(q: Tensor, k: Tensor, v: Tensor, lists: TokenLists, arithmetic: Arithmetic) -> Results:
    """Outputs, combined log-sum-exps (+inf where no key was seen), and the weights of tokens' own values."""
    B, T, H, _ = q.shape
    out_BTHD = torch.empty_like(v)
    lse_NT = torch.empty(B * H, T, dtype=statistics_dtype(q), device=q.device)
    lonely_NT = torch.empty_like(lse_NT)
    for first, last in _groups(B * H, T, lists.budget.sliced_entries):
        rows = _Rows(first, last, q)
        rounds = _Rounds(last - first, T, lists.num_rounds, v)
        for index in range(lists.num_rounds):
            for part in lists.stretches(first, last, index):
                rows_NS = rows.of(part.entries_NS)
                query_NCWD = part.blocks.queries(_take(q, rows_NS))
                key_NCKD, value_NCKD = (part.blocks.keys(_take(x, rows_NS)) for x in (k, v))
                out, lse = arithmetic.forward(query_NCWD, key_NCKD, value_NCKD, part.mask_NCWK, part.keep_NCWK)
                rounds.add(index, part, out, lse)
        own_NTD = _take(v, rows.all_NT)
        result_NTD, lse_NT[first:last], lonely_NT[first:last] = rounds.finish(own_NTD, lists.own_keep(first, last))
        _put(out_BTHD, rows.all_NT, result_NTD.to(v.dtype))
    return out_BTHD, lse_NT, lonely_NT


class _Rounds:
    """Rounds' stretches into combined results of every token of some slices.

    Rows are tokens, with one more at the end of every slice for places that hold none.
    """

    def __init__(self, num_slices: int, length: int, num_rounds: int, v: Tensor) -> None:
        self.shape = (num_slices, length + 1)
        self.combination = RunningCombination(num_slices * (length + 1), v)
        self.num_rounds = num_rounds
        self.num_self_RM: Tensor | None = None

    def add(self, index: int, part: Stretch, out_NCWD: Tensor, lse_NCW: Tensor) -> None:
        """Add the results of a stretch of round `index`; lse is -inf where a query saw no key."""
        tokens_NQ = part.blocks.queries(part.entries_NS).flatten(1)
        rows = (tokens_NQ + torch.arange(self.shape[0], device=tokens_NQ.device)[:, None] * self.shape[1]).flatten()
        self.combination.add(rows, out_NCWD.flatten(0, 2), lse_NCW.flatten())
        if part.num_self_NCW is not None:
            if self.num_self_RM is None:
                self.num_self_RM = torch.ones_like(self.combination.largest_M).repeat(self.num_rounds, 1)
            self.num_self_RM[index, rows] = part.num_self_NCW.flatten().to(lse_NCW.dtype)

    def finish(self, own_NTD: Tensor, keep_NT: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Combined output, combined log-sum-exp (+inf where no key was seen), and the weight of a token's own value."""
        own_MD = pad(own_NTD, (0, 0, 0, 1)).flatten(0, 1)
        keep_M = None if keep_NT is None else pad(keep_NT, (0, 1)).flatten()
        if self.num_self_RM is not None:
            masked_M = masked_self_weight(self.num_self_RM)
            keep_M = masked_M if keep_M is None else keep_M * masked_M
        out, lse, own_weight = (x.unflatten(0, self.shape)[:, :-1] for x in self.combination.finish(own_MD, keep_M))
        return out, lse, own_weight


class _Rows:
    """Where the tokens of some slices lie among the rows of a [B * T * H, D] matrix."""

    def __init__(self, first: int, last: int, x_BTHD: Tensor) -> None:
        _, self.T, self.H, _ = x_BTHD.shape
        slices_N1 = torch.arange(first, last, device=x_BTHD.device)[:, None]
        self.start_N1 = slices_N1 // self.H * (self.T * self.H) + slices_N1 % self.H
        self.all_NT = self.of(torch.arange(self.T, device=x_BTHD.device).expand(last - first, self.T))

    def of(self, tokens_NS: Tensor) -> Tensor:
        """Rows of tokens; places without one name the last token, whose values the mask hides."""
        return self.start_N1 + tokens_NS.clamp(max=self.T - 1) * self.H


def _groups(num_slices: int, length: int, entries: int) -> Iterator[tuple[int, int]]:
    size = max(1, entries // max(1, length))
    for first in range(0, num_slices, size):
        yield first, min(first + size, num_slices)


def _take(x_BTHD: Tensor, rows_NS: Tensor) -> Tensor:
    return x_BTHD.view(-1, x_BTHD.shape[-1]).index_select(0, rows_NS.flatten()).unflatten(0, rows_NS.shape)


def _put(x_BTHD: Tensor, rows_NS: Tensor, values_NSD: Tensor) -> None:
    x_BTHD.view(-1, x_BTHD.shape[-1]).index_copy_(0, rows_NS.flatten(), values_NSD.flatten(0, 1))


def _add(x_BTHD: Tensor, rows_NS: Tensor, values_NSD: Tensor) -> None:
    x_BTHD.view(-1, x_BTHD.shape[-1]).index_add_(0, rows_NS.flatten(), values_NSD.flatten(0, 1))
