"""The Triton backend: kernels for float32 and bfloat16 on a GPU. Tokens are put in order by torch.

In and out: as `Backend` says. The same sums as the plain backend, which is the reference.

Legend: D head dimension, R hash rounds, M rows (batch * tokens * heads, or those that came).
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from reformer_dist.model.backends.backend import Backend
from reformer_dist.model.backends.description import OrderedRows, OrderedTokens
from reformer_dist.model.backends.packing import pack, unpack
from reformer_dist.model.backends.plain.combination import masked_self_weight
from reformer_dist.model.backends.triton import launch
from reformer_dist.model.backends.triton.launch import Lists, Vectors
from reformer_dist.model.backends.triton.lists import lists_of_rows, lists_of_tokens
from reformer_dist.model.keeping import Results, found_or_made
from reformer_dist.model.randomness import pair_keep


class Triton(Backend):
    """What the kernels of kernels.py compute."""

    noun = "the Triton kernels"
    device_type = "cuda"
    dtypes = launch.DTYPES
    max_head_dim = launch.MAX_HEAD_DIM
    serves_once = False

    def missing(self) -> str | None:
        """See `Backend`."""
        return None if launch.is_available() else "Triton is not installed (pip install triton)"

    def attend(self, q_BTHD: Tensor, k_BTHD: Tensor | None, v_BTHD: Tensor, blocks: OrderedTokens) -> Tensor:
        """See `Backend`."""
        return _Attention.apply(q_BTHD, k_BTHD, v_BTHD, blocks)

    def attend_rows(self, vectors: Tensor, rows: OrderedRows) -> Tensor:
        """See `Backend`."""
        qk_MD, v_MD = vectors.chunk(2, dim=1)
        out_MD, lse_M, _ = launch.attend(Vectors(qk_MD, None, v_MD), lists_of_rows(rows, qk_MD))
        return pack(out_MD[rows.own].to(v_MD.dtype), lse_M[rows.own, None])

    def attend_rows_backward(self, vectors: Tensor, outputs: Tensor, rows: OrderedRows) -> Tensor:
        """See `Backend`."""
        qk_MD, v_MD = vectors.chunk(2, dim=1)
        grad_MD, statistics_M2 = unpack(outputs, v_MD.shape[1])
        delta_M = statistics_M2[:, 0].contiguous()
        lse_M = torch.full_like(delta_M, torch.inf)  # halo rows are keys alone
        lse_M[rows.own] = statistics_M2[rows.own, 1]
        gradients = torch.zeros(vectors.shape, dtype=lse_M.dtype, device=vectors.device)
        dqk_MD, dv_MD = gradients.chunk(2, dim=1)
        lists = lists_of_rows(rows, qk_MD)
        launch.attend_backward(Vectors(qk_MD, None, v_MD), grad_MD, lse_M, delta_M, lists, (dqk_MD, dqk_MD, dv_MD))
        return gradients.to(vectors.dtype)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor | None, v: Tensor, blocks: OrderedTokens) -> Tensor:
        q, v = q.contiguous(), v.contiguous()
        k = None if k is None else k.contiguous()
        ctx.lists = lists_of_tokens(blocks, q)
        make = partial(_attended, _vectors(q, k, v), v, blocks, ctx.lists)
        results = found_or_made(blocks.kept, "attention", "attention", make)
        ctx.save_for_backward(q, k, v, *results)
        return results[0].detach()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse_M, own_M = ctx.saved_tensors
        vectors, grad_MD = _vectors(q, k, v), _rows(grad.contiguous())
        delta_M = (grad_MD.to(lse_M.dtype) * _rows(out)).sum(1)
        dq = torch.zeros(grad_MD.shape, dtype=lse_M.dtype, device=q.device)
        dk = dq if k is None else torch.zeros_like(dq)
        dv = torch.mul(grad_MD, own_M[:, None])
        launch.attend_backward(vectors, grad_MD, lse_M, delta_M, ctx.lists, (dq, dk, dv))
        gradients = (dq, None if k is None else dk, dv)
        return *(None if x is None else x.to(v.dtype).view_as(v) for x in gradients), None


def _attended(vectors: Vectors, v: Tensor, blocks: OrderedTokens, lists: Lists) -> Results:
    """Outputs, combined log-sum-exps (+inf where no key was seen), and the weights of tokens' own values."""
    out_MD, lse_M, met_RM = launch.attend(vectors, lists, blocks.rule.masked_self_score)
    lonely_M = lse_M == -torch.inf
    own_M = lonely_M.to(lse_M.dtype) if blocks.rule.own_value else torch.zeros_like(lse_M)
    if met_RM is not None:
        own_M *= masked_self_weight(met_RM.clamp_(min=1).to(lse_M.dtype))
    if lists.hashes_M is not None and blocks.dropout is not None:
        own_M *= pair_keep(lists.hashes_M, lists.hashes_M, blocks.dropout.probability, own_M.dtype)
    out = out_MD.addcmul_(vectors.v, own_M[:, None]).to(v.dtype).view_as(v)
    return out, lse_M.masked_fill_(lonely_M, torch.inf), own_M


def _vectors(q: Tensor, k: Tensor | None, v: Tensor) -> Vectors:
    return Vectors(_rows(q), None if k is None else _rows(k), _rows(v), q.shape[-1] ** -0.5)


def _rows(x_BTHD: Tensor) -> Tensor:
    return x_BTHD.view(-1, x_BTHD.shape[-1])
