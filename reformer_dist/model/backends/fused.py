"""The backend of torch's own fused attention on a CPU: the plain backend with an arithmetic that never holds the scores.

In and out: as `Backend` says, for float32 and float64 without dropout.
"""

import torch
from torch import Tensor

from reformer_dist.model.backends.plain.arithmetic import Arithmetic
from reformer_dist.model.backends.plain.backend import Plain


def _forward(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor]:
    assert keep is None  # the fused operator has no dropout
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, attn_mask=mask, scale=1.0)
    return out, torch.where(mask.amax(-1) == -torch.inf, -torch.inf, lse)


def _backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, mask: Tensor, keep: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    assert keep is None
    dq, dk, dv = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        grad, q, k, v, out, lse, 0.0, False, attn_mask=mask, scale=1.0
    )
    return dq, dk, dv


class Fused(Plain):
    """Blocks by torch's fused operator."""

    noun = "torch's fused attention"
    device_type = "cpu"
    dtypes = (torch.float32, torch.float64)
    serves_dropout = False
    arithmetic = Arithmetic(_forward, _backward)
