"""Running a function piece by piece along the tokens, and again in the backward pass instead of keeping its insides.

In: a function of a piece of tokens and some parameters. Out: the same results and gradients as one call, in the memory
of one piece. Each parameter's gradient arrives once, as ZeRO's reduction needs.

Legend: B batch, T tokens.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

PieceFunction = Callable[[int, Sequence[Tensor], Sequence[Tensor]], Tensor]
"""(first token, inputs of the piece [B, t, ...], parameters) -> output of the piece."""


def autocast_of_now(device_type: str) -> Callable[[], AbstractContextManager[Any]]:
    """A maker of contexts with the autocast state of now; inside a Function's backward autocast is otherwise off."""
    enabled, dtype = torch.is_autocast_enabled(device_type), torch.get_autocast_dtype(device_type)
    return lambda: torch.autocast(device_type, dtype=dtype, enabled=enabled)


def map_tokens(function: PieceFunction, length: int, inputs: Sequence[Tensor], parameters: Sequence[Tensor]) -> Tensor:
    """Apply a function that treats tokens independently to `length` tokens at a time; outputs [B, T, ...]."""
    return _Pieces.apply(function, length, False, len(inputs), *inputs, *parameters)


def sum_tokens(function: PieceFunction, length: int, inputs: Sequence[Tensor], parameters: Sequence[Tensor]) -> Tensor:
    """The sum over pieces of a function whose output is a sum over its tokens."""
    return _Pieces.apply(function, length, True, len(inputs), *inputs, *parameters)


class _Pieces(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, function: PieceFunction, length: int, total: bool, num_inputs: int, *tensors: Tensor
    ) -> Tensor:
        inputs, parameters = tensors[:num_inputs], tensors[num_inputs:]
        ctx.function, ctx.length, ctx.total, ctx.num_inputs = function, length, total, num_inputs
        ctx.autocast = autocast_of_now(tensors[0].device.type)
        ctx.save_for_backward(*tensors)
        pieces = ((start, function(start, piece, parameters)) for start, piece in _cut(inputs, length))
        return torch.stack([x for _, x in pieces]).sum(0) if total else _join(pieces, inputs[0].shape[1])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, parameters = ctx.saved_tensors[: ctx.num_inputs], ctx.saved_tensors[ctx.num_inputs :]
        needs = ctx.needs_input_grad[4:]
        leaves = [x.detach().requires_grad_(need) for x, need in zip(parameters, needs[ctx.num_inputs :], strict=True)]
        grads: list[Tensor | None] = [
            torch.empty_like(x) if need else None for x, need in zip(inputs, needs, strict=False)
        ]
        sums: list[Tensor | None] = [torch.zeros_like(x) if x.requires_grad else None for x in leaves]
        for start, piece in _cut(inputs, ctx.length):
            here = slice(start, start + ctx.length)
            pieces = [x.detach().requires_grad_(need) for x, need in zip(piece, needs, strict=False)]
            with torch.enable_grad(), ctx.autocast():
                output = ctx.function(start, pieces, leaves)
            wanted = [x for x in (*pieces, *leaves) if x.requires_grad]
            found = iter(torch.autograd.grad(output, wanted, grad if ctx.total else grad[:, here], allow_unused=True))
            for x, whole in zip(pieces, grads, strict=True):
                if whole is not None and x.requires_grad:
                    gradient = next(found)
                    whole[:, here] = 0 if gradient is None else gradient
            for total in sums:
                if total is not None and (gradient := next(found)) is not None:
                    total += gradient
        return None, None, None, None, *grads, *sums


def _join(pieces: Iterable[tuple[int, Tensor]], num_tokens: int) -> Tensor:
    """Put pieces into one tensor as they come, so that they are never all there beside it."""
    whole: Tensor | None = None
    for start, x in pieces:
        if whole is None:
            whole = x.new_empty(x.shape[0], num_tokens, *x.shape[2:])
        whole[:, start : start + x.shape[1]] = x
    assert whole is not None
    return whole


def _cut(inputs: Sequence[Tensor], length: int) -> list[tuple[int, list[Tensor]]]:
    T = inputs[0].shape[1]
    return [(start, [x[:, start : start + length] for x in inputs]) for start in range(0, T, length)]
