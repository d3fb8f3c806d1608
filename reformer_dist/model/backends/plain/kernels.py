"""The arithmetic of one stretch of blocks: masked attention and its gradients, given the final log-sum-exp.

In: queries [N, C, W, D], keys and values [N, C, K, D], an additive mask and dropout multipliers [N, C, W, K]. Out: the
blocks' outputs and log-sum-exps, or the gradients. `plain` is the readable reference and runs anywhere; `fused` is
torch's own CPU attention, which never holds the scores.

Legend: N slices, C blocks, W queries of a block, K keys it sees, D head dimension.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Kernel:
    """A forward function and its gradient."""

    forward: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]
    """(q, k, v, mask, keep) -> (out [N, C, W, D], lse [N, C, W]; -inf where nothing is visible)."""
    backward: Callable[
        [Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor, Tensor]
    ]
    """(grad, q, k, v, combined out, combined lse, mask, keep) -> gradients of q, k and v."""


def pick_kernel(q: Tensor, name: str) -> Kernel:
    """The kernel for this device and dtype; "plain" asks for the reference."""
    fused = name == "auto" and q.device.type == "cpu" and q.dtype in (torch.float32, torch.float64)
    return FUSED if fused else PLAIN


def statistics_dtype(x: Tensor) -> torch.dtype:
    """Dtype of scores' log-sum-exps: float64 stays, all else is float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _plain_forward(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor]:
    scores = (q @ k.transpose(-1, -2)).to(statistics_dtype(q)) + mask
    lse = scores.logsumexp(-1)
    weights = torch.exp(scores - lse.nan_to_num(neginf=0.0)[..., None])
    weights = weights if keep is None else weights * keep
    return weights.to(v.dtype) @ v, lse


def _plain_backward(
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


def _fused_forward(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor]:
    if keep is not None:  # the fused operator has no dropout
        return _plain_forward(q, k, v, mask, keep)
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, attn_mask=mask, scale=1.0)
    return out, torch.where(mask.amax(-1) == -torch.inf, -torch.inf, lse)


def _fused_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, mask: Tensor, keep: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    if keep is not None:
        return _plain_backward(grad, q, k, v, out, lse, mask, keep)
    dq, dk, dv = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        grad, q, k, v, out, lse, 0.0, False, attn_mask=mask, scale=1.0
    )
    return dq, dk, dv


PLAIN = Kernel(_plain_forward, _plain_backward)
FUSED = Kernel(_fused_forward, _fused_backward)
