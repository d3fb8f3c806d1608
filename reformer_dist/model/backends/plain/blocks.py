"""Attention over blocks of an ordered list of tokens, combined over several orders (hash rounds).

In: queries, keys and values [B, T, H, D] and a plan that orders the tokens of each round and says which keys of the
neighbouring blocks a query may see. Out: [B, T, H, D], in memory that does not grow with the rounds. LSH and local
attention, in every mode, are plans of this one operation.

The backward pass of a round is ordinary attention's, given the *combined* output and the *combined* log-sum-exp L:
exp(S - L) is a pair's weight in the final mix, so the gradient through the rounds' weights needs no further term. Only
the output, L and the orders are kept.

Legend: B batch, T tokens, H heads, D head dimension, N slices (a head of a sequence) worked on together, C blocks,
W block length, S entries of a stretch of the list with its neighbours, Q = C * W of them queries, K keys a block sees.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from reformer_dist.model.backends.plain.combination import RunningMix
from reformer_dist.model.backends.plain.kernels import pick_kernel, statistics_dtype

_ENTRIES_AT_A_TIME = 1 << 14  # entries of all slices in a group; bounds the memory of small sequences' scores

KernelName = Literal["auto", "plain"]


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
class Stretch:
    """A stretch of one round's ordered list, for N slices: blocks of queries and the keys around them."""

    blocks: Blocks
    tokens_NS: Tensor
    """Token at each place, int64; T at places that hold none."""
    mask_NCWK: Tensor
    """Added to the scores: -inf where a query may not look, else 0 or a correction."""
    keep_NCWK: Tensor | None = None
    """Dropout multipliers of the weights; None without dropout."""
    num_self_NCW: Tensor | None = None
    """How often a query meets its own token, where a masked self score stands for the lonely rule; else None."""


class Plan(Protocol):
    """How the tokens of every slice are ordered, cut and masked. Slice n is head n % H of sequence n // H."""

    num_rounds: int

    def stretches(self, first: int, last: int, index: int) -> Iterator[Stretch]:
        """The list of round `index` for the slices first..last-1, stretch by stretch; each token is once a query."""

    def own_keep(self, first: int, last: int) -> Tensor | None:
        """Dropout multipliers of every token's weight on its own value, [N, T]; None without dropout."""


def block_attention(q_BTHD: Tensor, k_BTHD: Tensor, v_BTHD: Tensor, plan: Plan, kernel: KernelName = "auto") -> Tensor:
    """Attend by the plan's rounds; scores are q . k. A token that sees no key in any round returns its own value.

    Args:
        q_BTHD: queries, float32, float64 or bfloat16; keys and values have the same shape and dtype.
        k_BTHD: keys.
        v_BTHD: values.
        plan: orders and masks.
        kernel: "auto" takes the fastest code for the device; "plain" spells everything out.

    Returns:
        [B, T, H, D] in the dtype of the values.

    """
    return _BlockAttention.apply(q_BTHD, k_BTHD, v_BTHD, plan, kernel)


class _BlockAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, plan: Plan, kernel_name: KernelName) -> Tensor:
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        B, T, H, _ = q.shape
        out_BTHD = torch.empty_like(v)
        lse_NT = torch.empty(B * H, T, dtype=statistics_dtype(q), device=q.device)
        lonely_NT = torch.empty_like(lse_NT)
        kernel = pick_kernel(q, kernel_name)
        for first, last in _groups(B * H, T):
            rows = _Rows(first, last, q)
            mix = _Mix(last - first, T, plan.num_rounds, v)
            for index in range(plan.num_rounds):
                for part in plan.stretches(first, last, index):
                    rows_NS = rows.of(part.tokens_NS)
                    query_NCWD = part.blocks.queries(_take(q, rows_NS))
                    key_NCKD, value_NCKD = (part.blocks.keys(_take(x, rows_NS)) for x in (k, v))
                    out, lse = kernel.forward(query_NCWD, key_NCKD, value_NCKD, part.mask_NCWK, part.keep_NCWK)
                    mix.add(index, part, out, lse)
            own_NTD = _take(v, rows.all_NT)
            result_NTD, lse_NT[first:last], lonely_NT[first:last] = mix.finish(own_NTD, plan.own_keep(first, last))
            _put(out_BTHD, rows.all_NT, result_NTD.to(v.dtype))
        ctx.save_for_backward(q, k, v, out_BTHD, lse_NT, lonely_NT)
        ctx.plan, ctx.kernel = plan, kernel
        return out_BTHD

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse_NT, lonely_NT = ctx.saved_tensors
        grad_out = grad_out.contiguous()
        B, T, H, _ = q.shape
        dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for first, last in _groups(B * H, T):
            rows = _Rows(first, last, q)
            _add(dv, rows.all_NT, _take(grad_out, rows.all_NT) * lonely_NT[first:last, :, None].to(v.dtype))
            for index in range(ctx.plan.num_rounds):
                for part in ctx.plan.stretches(first, last, index):
                    blocks, rows_NS = part.blocks, rows.of(part.tokens_NS)
                    lse_NS = lse_NT[first:last].gather(1, part.tokens_NS.clamp(max=T - 1))
                    query_NCWD, out_NCWD, grad_NCWD = (blocks.queries(_take(x, rows_NS)) for x in (q, out, grad_out))
                    key_NCKD, value_NCKD = (blocks.keys(_take(x, rows_NS)) for x in (k, v))
                    dq_NCWD, dk_NCKD, dv_NCKD = ctx.kernel.backward(
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
        return dq, dk, dv, None, None


class _Mix:
    """Rounds' stretches into combined results of every token of some slices.

    Rows are tokens, with one more at the end of every slice for places that hold none.
    """

    def __init__(self, num_slices: int, length: int, num_rounds: int, v: Tensor) -> None:
        self.shape = (num_slices, length + 1)
        self.mix = RunningMix(num_slices * (length + 1), v)
        self.num_rounds = num_rounds
        self.num_self_RM: Tensor | None = None

    def add(self, index: int, part: Stretch, out_NCWD: Tensor, lse_NCW: Tensor) -> None:
        """Add the results of a stretch of round `index`; lse is -inf where a query saw no key."""
        tokens_NQ = part.blocks.queries(part.tokens_NS).flatten(1)
        rows = (tokens_NQ + torch.arange(self.shape[0], device=tokens_NQ.device)[:, None] * self.shape[1]).flatten()
        self.mix.add(rows, out_NCWD.flatten(0, 2), lse_NCW.flatten())
        if part.num_self_NCW is not None:
            if self.num_self_RM is None:
                self.num_self_RM = torch.ones_like(self.mix.largest_M).repeat(self.num_rounds, 1)
            self.num_self_RM[index, rows] = part.num_self_NCW.flatten().to(lse_NCW.dtype)

    def finish(self, own_NTD: Tensor, keep_NT: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Combined output, combined log-sum-exp (+inf where no key was seen), and the weight of a token's own value."""
        own_MD = pad(own_NTD, (0, 0, 0, 1)).flatten(0, 1)
        keep_M = None if keep_NT is None else pad(keep_NT, (0, 1)).flatten()
        if self.num_self_RM is not None:
            masked_M = masked_self_weight(self.num_self_RM)
            keep_M = masked_M if keep_M is None else keep_M * masked_M
        out, lse, own_weight = (x.unflatten(0, self.shape)[:, :-1] for x in self.mix.finish(own_MD, keep_M))
        return out, lse, own_weight


def masked_self_weight(num_self_RN: Tensor) -> Tensor:
    """Weight of a lonely token's own value, by scores of -1e5 as Hugging Face sums them: near 1, but for their rounding.

    `num_self_RN` says how often it met itself in each round, at least 1, in the dtype of the scores.
    """
    lse_RN = torch.log(num_self_RN) - 1e5
    return (num_self_RN * torch.exp(-1e5 - lse_RN) * torch.exp(lse_RN - lse_RN.logsumexp(0))).sum(0)


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


def _groups(num_slices: int, length: int) -> Iterator[tuple[int, int]]:
    size = max(1, _ENTRIES_AT_A_TIME // max(1, length))
    for first in range(0, num_slices, size):
        yield first, min(first + size, num_slices)


def _take(x_BTHD: Tensor, rows_NS: Tensor) -> Tensor:
    return x_BTHD.view(-1, x_BTHD.shape[-1]).index_select(0, rows_NS.flatten()).unflatten(0, rows_NS.shape)


def _put(x_BTHD: Tensor, rows_NS: Tensor, values_NSD: Tensor) -> None:
    x_BTHD.view(-1, x_BTHD.shape[-1]).index_copy_(0, rows_NS.flatten(), values_NSD.flatten(0, 1))


def _add(x_BTHD: Tensor, rows_NS: Tensor, values_NSD: Tensor) -> None:
    x_BTHD.view(-1, x_BTHD.shape[-1]).index_add_(0, rows_NS.flatten(), values_NSD.flatten(0, 1))
