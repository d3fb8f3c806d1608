"""Undoing a residual addition and differentiating it in one walk, piece by piece, without holding the layer's insides.

In: a layer's input x, the stream y = x' + layer(x), and the gradient of y. Out: the stream is x' again, the gradient of x
has grown by the layer's, and each parameter's gradient arrives once, by ordinary autograd, as ZeRO's hooks expect.

Legend: B batch, T tokens, E model dimension.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reformer_dist.model.reversible.recomputation import autocast_of_now


@dataclass(frozen=True)
class Addition:
    """The tensors of one residual addition in the backward pass; `stream` and `grad_input` are changed in place."""

    stream_BTE: Tensor | None
    """The sum; the layer's contribution is taken off. None where the stream was kept, so that nobody needs to."""
    grad_BTE: Tensor
    """Gradient of the sum, and so of the contribution."""
    grad_input_BTE: Tensor
    """Gradient of the layer's input, added to."""

    def take_off(self, here: slice, contribution_BTE: Tensor) -> None:
        """Take the contribution to some tokens off the stream."""
        if self.stream_BTE is not None:
            self.stream_BTE[:, here] -= contribution_BTE.detach()


class Leaves:
    """A layer's parameters cut off from the graph, and the sums of their gradients."""

    def __init__(self, parameters: Sequence[Tensor], needed: Sequence[bool]) -> None:
        """Cut off; parameters that are not `needed` get no gradient."""
        self.parameters = [x.detach().requires_grad_(need) for x, need in zip(parameters, needed, strict=True)]
        self.sums = [torch.zeros_like(x) if x.requires_grad else None for x in self.parameters]

    def pull(self, outputs: Sequence[Tensor], grads: Sequence[Tensor], inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Gradients of `inputs`; those of the parameters are added up."""
        wanted = [*inputs, *(x for x in self.parameters if x.requires_grad)]
        cast = [grad.to(x.dtype) for x, grad in zip(outputs, grads, strict=True)]
        found = torch.autograd.grad(outputs, wanted, cast, allow_unused=True)
        sums = [total for total in self.sums if total is not None]
        for total, gradient in zip(sums, found[len(inputs) :], strict=True):
            if gradient is not None:
                total += gradient
        return found[: len(inputs)]


Work = Callable[[Leaves], None]
"""Undoes a layer, with gradients off."""
Cut = tuple[slice, slice]
"""The tokens of a piece, and the tokens it looks at."""


def defer(work: Work, anchor: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """A scalar whose backward pass does the work and hands the parameters their gradients.

    `anchor` is a scalar that requires a gradient, so that there is a backward pass where all parameters are frozen.
    """
    return _Deferred.apply(work, anchor, *parameters)


class _Deferred(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, work: Work, anchor: Tensor, *parameters: Tensor) -> Tensor:
        ctx.work, ctx.autocast = work, autocast_of_now(anchor.device.type)
        ctx.save_for_backward(*parameters)
        return torch.zeros_like(anchor)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        leaves = Leaves(ctx.saved_tensors, ctx.needs_input_grad[2:])
        with ctx.autocast():
            ctx.work(leaves)
        return None, grad, *leaves.sums


def pieces(num_tokens: int, length: int) -> Iterator[slice]:
    """Pieces of up to `length` tokens."""
    for start in range(0, num_tokens, length):
        yield slice(start, min(start + length, num_tokens))
