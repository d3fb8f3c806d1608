"""The compiled backend: C++ operators for float32 and float64 on a CPU.

In and out: as `Backend` says. The operators order tokens and rows themselves; what they take beside vectors is written in
attend.cpp and routed.cpp.

Legend: B batch, T tokens, H heads, D head dimension, R hash rounds, F half the sum of the bucket factors, M rows.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from reformer_dist.model.backends.backend import Backend, Combination, Work
from reformer_dist.model.backends.description import FiledTokens, OrderedRows, OrderedTokens, StreamNorm
from reformer_dist.model.backends.native import build
from reformer_dist.model.backends.native.plan import NativePlan, real
from reformer_dist.model.budget import Budget
from reformer_dist.model.keeping import Kept, Results, found_or_made
from reformer_dist.model.randomness import token_hash

_COMPARISONS = ("any", "earlier", "up to", "other")  # in the order of the C++ enum
_NO_DROPOUT = (0.0, 1.0)  # threshold and scale


class Native(Backend):
    """What the operators of attend.cpp, buckets.cpp, convolution.cpp and routed.cpp compute."""

    noun = "the compiled operators"
    device_type = "cpu"
    dtypes = (torch.float32, torch.float64)
    serves_once = False

    def missing(self) -> str | None:
        """See `Backend`."""
        return None if build.is_loaded() else f"the compiled operators are not built ({build.COMMAND})"

    def strength(self, work: Work) -> str:
        """See `Backend`."""
        return f"{super().strength(work)} with {build.capability()}"

    def attend(self, q_BTHD: Tensor, k_BTHD: Tensor | None, v_BTHD: Tensor, blocks: OrderedTokens) -> Tensor:
        """See `Backend`."""
        return _Attention.apply(q_BTHD, k_BTHD, v_BTHD, _lists_of_tokens(blocks, q_BTHD), blocks.kept)

    def attend_rows(self, vectors: Tensor, rows: OrderedRows) -> Tensor:
        """See `Backend`."""
        return torch.ops.reformer_dist.attend_rows(vectors, *_lists_of_rows(rows))

    def attend_rows_backward(self, vectors: Tensor, outputs: Tensor, rows: OrderedRows) -> Tensor:
        """See `Backend`."""
        return torch.ops.reformer_dist.attend_rows_backward(vectors, outputs, *_lists_of_rows(rows))

    def hash(self, qk_BTHD: Tensor, rotations: Tensor, factors: Sequence[int], budget: Budget) -> Tensor:
        """See `Backend`."""
        rotations_HDRF = (rotations[None] if rotations.dim() == 3 else rotations).to(qk_BTHD.dtype)
        return torch.ops.reformer_dist.hash(_with_rows(qk_BTHD.detach()), rotations_HDRF, factors)

    def next_projections(
        self, x_BE: Tensor, norm: StreamNorm, weights: Sequence[Tensor], biases: Sequence[Tensor]
    ) -> list[Tensor]:
        """See `Backend`."""
        own = norm.weight_E, norm.bias_E, norm.eps, norm.taps_E1K, norm.recent_BKE
        return torch.ops.reformer_dist.next_projections(x_BE, *own, weights, biases)

    def next_product(self, x_BN: Tensor, weight_EN: Tensor, bias_E: Tensor | None) -> Tensor:
        """See `Backend`."""
        return torch.ops.reformer_dist.next_product(x_BN, weight_EN, bias_E)

    def next_of_newest(
        self,
        q_BHD: Tensor,
        k_BHD: Tensor,
        v_BHD: Tensor,
        rows: Tensor,
        positions_B: Tensor,
        oldest_B: Tensor,
        waves_BF: Tensor | None,
    ) -> Tensor:
        """See `Backend`."""
        return torch.ops.reformer_dist.next_of_newest(q_BHD, k_BHD, v_BHD, rows, positions_B, oldest_B, real(waves_BF))

    def next_buckets(self, qk_BHD: Tensor, rotations_HDRF: Tensor, factors: Sequence[int]) -> Tensor:
        """See `Backend`."""
        return torch.ops.reformer_dist.next_buckets(qk_BHD, rotations_HDRF, factors)

    def next_of_buckets(
        self,
        qk_BHD: Tensor,
        v_BHD: Tensor,
        buckets_BHR: Tensor,
        filed: FiledTokens,
        positions_B: Tensor,
        waves_BF: Tensor | None,
    ) -> Tensor:
        """See `Backend`."""
        places = filed.rows, filed.newest_BHRNW, filed.counts_BHRN
        return torch.ops.reformer_dist.next_of_buckets(
            qk_BHD, v_BHD, buckets_BHR, *places, positions_B, filed.brings_next, real(waves_BF)
        )

    def make_plan(self) -> NativePlan:
        """See `Backend`."""
        return NativePlan()

    def next_probabilities(self, logits_BV: Tensor) -> Tensor:
        """See `Backend`."""
        return torch.ops.reformer_dist.next_probabilities(logits_BV)

    def convolve(self, x_BSE: Tensor, weight_E1K: Tensor, documents_BS: Tensor | None, after: int) -> Tensor:
        """See `Backend`."""
        documents_BS = None if documents_BS is None else documents_BS.expand(x_BSE.shape[:2]).contiguous()
        return torch.ops.reformer_dist.convolve(x_BSE.contiguous(), weight_E1K, documents_BS, after)

    def convolve_backward(
        self, grad_BSE: Tensor, x_BSE: Tensor, weight_E1K: Tensor, documents_BS: Tensor | None, after: int
    ) -> tuple[Tensor, Tensor]:
        """See `Backend`."""
        documents_BS = None if documents_BS is None else documents_BS.expand(x_BSE.shape[:2]).contiguous()
        return torch.ops.reformer_dist.convolve_backward(
            grad_BSE.contiguous(), x_BSE.contiguous(), weight_E1K, documents_BS, after
        )

    def take_rows(self, parts: list[Tensor], rows: Tensor) -> Tensor:
        """See `Backend`."""
        return torch.ops.reformer_dist.take_rows(parts, rows)

    def add_rows(self, total: Tensor, rows: Tensor, x_MX: Tensor, counts: list[int]) -> None:
        """See `Backend`."""
        torch.ops.reformer_dist.add_rows(total, rows, x_MX, counts)

    def start_combination(self, num_rows: int, v: Tensor) -> Combination:
        """See `Backend`."""
        return _Combination(num_rows, v)


class _Combination:
    """The combined output and log-sum-exp of all rounds so far, for every row."""

    def __init__(self, num_rows: int, v: Tensor) -> None:
        self._out_MD = v.new_zeros(num_rows, v.shape[-1])
        self._lse_M = v.new_full((num_rows,), -torch.inf)

    def add_packed(self, rows: Tensor, packed: Tensor) -> None:
        """See `Combination`."""
        torch.ops.reformer_dist.combine_rows(self._out_MD, self._lse_M, rows, packed)

    def finish(self, own_MD: Tensor, own_keep_M: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """See `Combination`."""
        lonely_M = self._lse_M == -torch.inf
        own_weight_M = lonely_M.to(own_MD.dtype) if own_keep_M is None else own_keep_M.masked_fill(~lonely_M, 0.0)
        self._out_MD.addcmul_(own_MD, own_weight_M[:, None])
        return self._out_MD, self._lse_M.masked_fill(lonely_M, torch.inf), own_weight_M


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor | None, v: Tensor, lists: tuple[Any, ...], kept: Kept | None) -> Tensor:
        ctx.shared, ctx.scale, ctx.lists = k is None, q.shape[-1] ** -0.5, lists
        q, v = _with_rows(q), _with_rows(v)
        k = None if k is None else _with_rows(k)

        def attend() -> Results:
            return torch.ops.reformer_dist.attend(q, q if k is None else k, v, ctx.shared, ctx.scale, *lists)

        out, lse, own = found_or_made(kept, "attention", "attention", attend)
        ctx.save_for_backward(q, k, v, out, lse, own)
        return out.detach()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse, own = ctx.saved_tensors
        dq, dk, dv = torch.ops.reformer_dist.attend_backward(
            _with_rows(grad), q, q if k is None else k, v, out, lse, own, ctx.shared, ctx.scale, *ctx.lists
        )
        return dq, None if k is None else dk, dv, None, None


def _lists_of_tokens(blocks: OrderedTokens, q_BTHD: Tensor) -> tuple[Any, ...]:
    """Orders, buckets, documents, hashes, rule and dropout of whole sequences, as `attend` takes them."""
    rule, context, dropout = blocks.rule, blocks.context, blocks.dropout
    documents_BT, buckets_BHRT = context.documents_BT, blocks.buckets_BHRT
    documents_BT = None if documents_BT is None else documents_BT.expand(q_BTHD.shape[:2]).contiguous()
    chunk = rule.block if rule.reach is None else 0
    orders_BHRT = None
    if buckets_BHRT is not None:
        narrow = torch.int16 if buckets_BHRT.dtype == torch.int16 else torch.int32
        buckets_BHRT = buckets_BHRT.to(narrow).contiguous()
        # Within a chunk the order is free, and by position a query's keys are the first ones.
        sorted_chunk = chunk if rule.compare in ("earlier", "up to") else 0
        orders_BHRT = torch.ops.reformer_dist.sort(buckets_BHRT, documents_BT, blocks.num_buckets, sorted_chunk)
    hashes_BT = None
    if dropout is not None:
        shape = (q_BTHD.shape[0], q_BTHD.shape[1])
        hashes_BT = token_hash(dropout.key, context.first_row, context.first_position, shape, q_BTHD.device)
    reach = rule.reach or (0, 0)
    numbers = [chunk, rule.before, rule.after, rule.empty, *reach, _COMPARISONS.index(rule.compare)]
    numbers += [int(rule.circular), int(rule.masked_self_score), int(rule.own_value)]
    same_BHRT = buckets_BHRT if rule.same_bucket else None
    return orders_BHRT, same_BHRT, documents_BT, hashes_BT, numbers, [float(context.first_head), *_dropout(blocks)]


def _lists_of_rows(rows: OrderedRows) -> tuple[Any, ...]:
    """Own rows, order, segments, hashes, rule and dropout, as `attend_rows` takes them."""
    first, last = rows.queries
    numbers = [*rows.reach, int(rows.rule.compare == "other"), first, last - first]
    return rows.own, rows.order_NS, rows.segments_M.long(), rows.hashes_M, numbers, list(_dropout(rows))


def _dropout(blocks: OrderedTokens | OrderedRows) -> tuple[float, float]:
    """Threshold of the draws of 16 bits, and the scale of what is kept."""
    return _NO_DROPOUT if blocks.dropout is None else (float(blocks.dropout.threshold), blocks.dropout.scale)


def _with_rows(x: Tensor) -> Tensor:
    """The tensor, copied only if its last dimension is not contiguous, as the operators need it."""
    return x if x.stride(-1) == 1 else x.contiguous()
