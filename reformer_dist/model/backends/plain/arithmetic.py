"""The arithmetic of one stretch of blocks: masked attention and its gradients, given the final log-sum-exp.

In: queries [N, C, W, D], keys and values [N, C, K, D], an additive mask and dropout multipliers [N, C, W, K]. Out: the
blocks' outputs and log-sum-exps, or the gradients. This is the readable form, which runs anywhere.

Legend: N slices, C blocks, W queries of a block, K keys it sees, D head dimension.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from reformer_dist.model.backends.packing import statistics_dtype


@dataclass(frozen=True)
class Arithmetic:
    """A forward function and its gradient."""

    forward: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]
    """(q, k, v, mask, keep) -> (out [N, C, W, D], lse [N, C, W]; -inf where nothing is visible)."""
    backward: Callable[
        [Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor, Tensor]
    ]
    """(grad, q, k, v, combined out, combined lse, mask, keep) -> gradients of q, k and v."""


def _forward(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor]:
    scores = (q @ k.transpose(-1, -2)).to(statistics_dtype(q)) + mask
    lse = scores.logsumexp(-1)
    weights = torch.exp(scores - lse.nan_to_num(neginf=0.0)[..., None])
    weights = weights if keep is None else weights * keep
    return weights.to(v.dtype) @ v, lse


def _backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, mask: Tensor, keep: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    weights = torch.exp((q @ k.transpose(-1, -2)).to(lse.dtype) + mask - lse[..., None])
    grad_weights = (grad @ v.transpose(-1, -2)).to(lse.dtype)
    dropped = weights
    if keep is not None:
        dropped, grad_weights = weights * keep, grad_weights * keep
    delta = (grad * out).sum(-1, keepdim=True, dtype=lse.dtype)
    grad_scores = (weights * (grad_weights - delta)).to(q.dtype)
    dv = dropped.to(grad.dtype).transpose(-1, -2) @ grad
    return grad_scores @ k, grad_scores.transpose(-1, -2) @ q, dv


PLAIN = Arithmetic(_forward, _backward)
