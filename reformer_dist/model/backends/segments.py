"""Attention among tokens of one (document, bucket) by a rule, on the fastest code there is for it.

In: queries, keys and values [B, T, H, D], a `Rule`, and LSH buckets. Out: [B, T, H, D].

The compiled operators (`native/`) serve float32 and float64 on the CPU, the Triton kernels (`gpu/`) float32 and bfloat16 on
a GPU; everything else goes through `block_attention`, which is also the reference: all compute the same sums.

Legend: B batch, T tokens, H heads, D head dimension, R hash rounds, N slices (heads of sequences).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reformer_dist.model.backends.native import build
from reformer_dist.model.backends.plain.blocks import KernelName, block_attention
from reformer_dist.model.backends.plans import AttentionDropout, Rule, SegmentPlan
from reformer_dist.model.backends.triton import launch
from reformer_dist.model.backends.triton.attention import plan_attention
from reformer_dist.model.context import Context
from reformer_dist.model.randomness import keep_threshold, token_hash

_COMPARISONS = ("any", "earlier", "up to", "other")  # in the order of the C++ enum


def segment_attention(
    q_BTHD: Tensor,
    k_BTHD: Tensor | None,
    v_BTHD: Tensor,
    rule: Rule,
    context: Context,
    *,
    buckets_BHRT: Tensor | None = None,
    num_buckets: int = 1,
    dropout: AttentionDropout | None = None,
    kernel: KernelName = "auto",
) -> Tensor:
    """Attend by the rule.

    Args:
        q_BTHD: queries, float32, float64 or bfloat16.
        k_BTHD: keys, for scores q . k / sqrt(D); None for shared queries-keys, whose keys have unit length.
        v_BTHD: values, of the queries' shape and dtype.
        rule: who sees whom.
        context: documents, and the shard's place for dropout.
        buckets_BHRT: LSH buckets of every round; None for one round in the given order.
        num_buckets: buckets of a round.
        dropout: of attention weights; None for none.
        kernel: "auto" or "plain".

    """
    if kernel == "auto" and not rule.once and build.serves(q_BTHD):
        lists = _make_lists(q_BTHD, rule, context, buckets_BHRT, num_buckets, dropout)
        return _Native.apply(q_BTHD, k_BTHD, v_BTHD, lists)
    plan = SegmentPlan(rule, v_BTHD, context, buckets_BHRT, num_buckets, dropout)
    if kernel == "auto" and not rule.once and launch.serves(q_BTHD, q_BTHD.shape[-1]):
        return plan_attention(q_BTHD, k_BTHD, v_BTHD, plan)
    keys_BTHD = unit_keys(q_BTHD) if k_BTHD is None else k_BTHD * q_BTHD.shape[-1] ** -0.5
    return block_attention(q_BTHD, keys_BTHD, v_BTHD, plan, kernel)


def unit_keys(qk_BTHD: Tensor) -> Tensor:
    """Keys of unit length: qk / sqrt(sum(qk^2) + D * 1e-6), as trax and Hugging Face normalise."""
    D = qk_BTHD.shape[-1]
    return qk_BTHD * torch.rsqrt(qk_BTHD.square().mean(-1, keepdim=True) + 1e-6) * D**-0.5


@dataclass(frozen=True)
class _Lists:
    """What the operators take beside queries, keys and values; see native/attend.cpp."""

    orders_BHRT: Tensor | None
    buckets_BHRT: Tensor | None
    documents_BT: Tensor | None
    hashes_BT: Tensor | None
    rule: list[int]
    dropout: list[float]

    def arguments(self) -> tuple[Any, ...]:
        return self.orders_BHRT, self.buckets_BHRT, self.documents_BT, self.hashes_BT, self.rule, self.dropout


def _make_lists(
    q_BTHD: Tensor,
    rule: Rule,
    context: Context,
    buckets_BHRT: Tensor | None,
    num_buckets: int,
    dropout: AttentionDropout | None,
) -> _Lists:
    documents_BT = context.documents_BT
    documents_BT = None if documents_BT is None else documents_BT.expand(q_BTHD.shape[:2]).contiguous()
    orders_BHRT = None
    if buckets_BHRT is not None:
        narrow = torch.int16 if buckets_BHRT.dtype == torch.int16 else torch.int32
        buckets_BHRT = buckets_BHRT.to(narrow).contiguous()
        # Within a chunk the order is free, and by position a query's keys are the first ones.
        chunk = rule.block if rule.reach is None and rule.compare in ("earlier", "up to") else 0
        orders_BHRT = torch.ops.reformer_dist.sort(buckets_BHRT, documents_BT, num_buckets, chunk)
    hashes_BT, settings = None, [0.0, 0.0, 1.0]
    if dropout is not None:
        shape = (q_BTHD.shape[0], q_BTHD.shape[1])
        hashes_BT = token_hash(dropout.key, context.first_row, context.first_position, shape, q_BTHD.device)
        threshold = keep_threshold(dropout.probability)
        settings = [float(context.first_head), float(threshold), 65536 / (65536 - threshold)]
    reach = rule.reach or (0, 0)
    chunk = rule.block if rule.reach is None else 0
    numbers = [chunk, rule.before, rule.after, rule.empty, *reach, _COMPARISONS.index(rule.compare)]
    return _Lists(
        orders_BHRT,
        buckets_BHRT if rule.same_bucket else None,
        documents_BT,
        hashes_BT,
        [*numbers, int(rule.circular), int(rule.masked_self_score)],
        settings,
    )


class _Native(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor | None, v: Tensor, lists: _Lists) -> Tensor:
        ctx.shared, ctx.scale, ctx.lists = k is None, q.shape[-1] ** -0.5, lists
        q, v = build.with_rows(q), build.with_rows(v)
        k = None if k is None else build.with_rows(k)
        out, lse, own = torch.ops.reformer_dist.attend(
            q, q if k is None else k, v, ctx.shared, ctx.scale, *lists.arguments()
        )
        ctx.save_for_backward(q, k, v, out, lse, own)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse, own = ctx.saved_tensors
        dq, dk, dv = torch.ops.reformer_dist.attend_backward(
            build.with_rows(grad),
            q,
            q if k is None else k,
            v,
            out,
            lse,
            own,
            ctx.shared,
            ctx.scale,
            *ctx.lists.arguments(),
        )
        return dq, None if k is None else dk, dv, None
