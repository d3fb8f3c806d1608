"""Matrix products of a model's layers by the faster of the two libraries that come with torch.

In: a stream and a matrix. Out: their product, differentiable. On a CPU torch gives products in float32 to MKL, which uses
its best code on Intel's processors alone; on AMD's oneDNN is a tenth to a fifth faster where a product is large. It serves
forward passes and the gradients of what is multiplied; those of matrices stay MKL's, which is as fast there.

Which library it is follows from the processor and the sizes alone, so that a run repeats to the last bit.

Legend: N features of an input, M of a result.
"""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

LEAST_MULTIPLICATIONS = 1 << 24
"""Of a product that oneDNN serves; below it what a call costs is more than what it saves."""


def linear(x: Tensor, weight_MN: Tensor, bias_M: Tensor | None = None) -> Tensor:
    """X times a matrix, plus a bias: [..., N] -> [..., M]."""
    if not _serves(x, weight_MN):
        return functional.linear(x, weight_MN, bias_M)
    if torch.is_grad_enabled():
        return _Product.apply(x, weight_MN, bias_M)
    return _onednn(x, weight_MN, bias_M)


def times(grad: Tensor, weight_MN: Tensor) -> Tensor:
    """A result's gradient times the matrix, which is the input's: [..., M] -> [..., N]; not differentiable."""
    return _onednn(grad, weight_MN.t(), None) if _serves(grad, weight_MN.t()) else grad @ weight_MN


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _onednn(x, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        return gradients(grad, x, weight, ctx.needs_input_grad)


def gradients(grad: Tensor, x: Tensor, weight_MN: Tensor, needed: tuple[bool, ...]) -> tuple[Tensor | None, ...]:
    """Gradients of a product's input, matrix and bias, as far as they are needed."""
    rows = grad.flatten(0, -2)
    return (
        times(grad, weight_MN) if needed[0] else None,
        rows.t() @ x.flatten(0, -2) if needed[1] else None,
        rows.sum(0) if needed[2] else None,
    )


def _serves(x: Tensor, weight_MN: Tensor) -> bool:
    """Whether oneDNN does it."""
    is_plain = x.dtype == weight_MN.dtype == torch.float32 and x.device.type == "cpu"
    large = x.numel() * weight_MN.shape[0] >= LEAST_MULTIPLICATIONS
    return is_plain and large and not torch.is_autocast_enabled("cpu") and is_faster_here()


@cache
def is_faster_here() -> bool:
    """Whether torch has oneDNN's product and the processor is one for which MKL has not its best code."""
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return False
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:  # no Linux
        return False


def _onednn(x: Tensor, weight_MN: Tensor, bias_M: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x.detach(), weight_MN.detach(), bias_M, "none", [], "")
