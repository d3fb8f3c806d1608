"""Attention by a rule on a GPU: tokens are put in order by torch, and worked through by Triton kernels.

In: queries, keys and values [B, T, H, D] and a plan. Out: [B, T, H, D]. The same sums as `block_attention`, which is the
reference.

Legend: B batch, T tokens, H heads, D head dimension, R hash rounds, N slices (heads of sequences), M rows (B * T * H),
P places of a round, panels of padding included.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from reformer_dist.model.backends.plain.blocks import masked_self_weight
from reformer_dist.model.backends.plans import SegmentPlan
from reformer_dist.model.backends.triton.launch import (
    Lists,
    Vectors,
    attend,
    attend_backward,
    panels_within,
    pick_block,
)
from reformer_dist.model.randomness import keep_threshold, pair_keep


def plan_attention(q_BTHD: Tensor, k_BTHD: Tensor | None, v_BTHD: Tensor, plan: SegmentPlan) -> Tensor:
    """Attend by the plan.

    Args:
        q_BTHD: queries, of a device and dtype that the kernels serve.
        k_BTHD: keys, for scores q . k / sqrt(D); None for shared queries-keys, whose keys have unit length.
        v_BTHD: values, of the queries' shape and dtype.
        plan: orders and rules; a pair that meets in several rounds counts every time.

    Returns:
        [B, T, H, D] in the dtype of the values.

    """
    return _PlanAttention.apply(q_BTHD, k_BTHD, v_BTHD, plan)


class _PlanAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor | None, v: Tensor, plan: SegmentPlan) -> Tensor:
        q, v = q.contiguous(), v.contiguous()
        k = None if k is None else k.contiguous()
        lists = make_lists(plan, q)
        vectors = _vectors(q, k, v)
        out_MD, lse_M, met_RM = attend(vectors, lists, plan.rule.masked_self_score)
        lonely_M = lse_M == -torch.inf
        own_M = lonely_M.to(lse_M.dtype)
        if met_RM is not None:
            own_M *= masked_self_weight(met_RM.clamp_(min=1).to(lse_M.dtype))
        if lists.hashes_M is not None and plan.dropout is not None:
            own_M *= pair_keep(lists.hashes_M, lists.hashes_M, plan.dropout.probability, own_M.dtype)
        out = out_MD.addcmul_(vectors.v, own_M[:, None]).to(v.dtype).view_as(v)
        ctx.save_for_backward(q, k, v, out, lse_M.masked_fill_(lonely_M, torch.inf), own_M)
        ctx.lists = lists
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse_M, own_M = ctx.saved_tensors
        vectors, grad_MD = _vectors(q, k, v), _rows(grad.contiguous())
        delta_M = (grad_MD.to(lse_M.dtype) * _rows(out)).sum(1)
        dq = torch.zeros(grad_MD.shape, dtype=lse_M.dtype, device=q.device)
        dk = dq if k is None else torch.zeros_like(dq)
        dv = torch.mul(grad_MD, own_M[:, None])
        attend_backward(vectors, grad_MD, lse_M, delta_M, ctx.lists, (dq, dk, dv))
        gradients = (dq, None if k is None else dk, dv)
        return *(None if x is None else x.to(v.dtype).view_as(v) for x in gradients), None


def make_lists(plan: SegmentPlan, q_BTHD: Tensor) -> Lists:
    """The rounds' orders, cut into panels: whole chunks, each filled up, or where the reach rules just the places."""
    rule, (_, T, H, D) = plan.rule, q_BTHD.shape
    assert rule.circular == (rule.reach is None)
    assert not rule.once
    wanted = rule.block if rule.reach is None else rule.reach[1] - rule.reach[0] + 1
    block = pick_block(wanted, D, q_BTHD.dtype)
    chunk = rule.block if rule.reach is None else block
    per, num_chunks = math.ceil(chunk / block), math.ceil(T / chunk) + rule.empty

    def cut(x_NT: Tensor) -> Tensor:
        chunks = pad(x_NT.int(), (0, num_chunks * chunk - T), value=-1).unflatten(1, (num_chunks, chunk))
        return pad(chunks, (0, per * block - chunk), value=-1).flatten(1)

    slices_N1 = torch.arange(q_BTHD.shape[0] * H, device=q_BTHD.device)[:, None]
    first_row_N1 = slices_N1 // H * (T * H) + slices_N1 % H
    rows, segments = [], []
    for index in range(plan.num_rounds):
        tokens_NT, segments_NT = plan.sorted_round(index)
        rows.append(cut(first_row_N1 + tokens_NT * H))
        if segments_NT is not None:
            segments.append(cut(segments_NT))
    before, after = (rule.before, rule.after) if rule.reach is None else panels_within(rule.reach, block)
    hashes_M, threshold = None, 0
    if plan.dropout is not None:
        threshold = keep_threshold(plan.dropout.probability)
        hashes_M = plan.token_hashes().unflatten(0, (-1, H)).transpose(1, 2).flatten()
    return Lists(
        torch.stack(rows, dim=1),
        torch.stack(segments, dim=1) if segments else None,
        hashes_M,
        block,
        per,
        before,
        after,
        rule.reach,
        rule.compare,
        threshold=threshold,
        kept=65536 / (65536 - threshold),
    )


def _vectors(q: Tensor, k: Tensor | None, v: Tensor) -> Vectors:
    return Vectors(_rows(q), None if k is None else _rows(k), _rows(v), q.shape[-1] ** -0.5)


def _rows(x_BTHD: Tensor) -> Tensor:
    return x_BTHD.view(-1, x_BTHD.shape[-1])
