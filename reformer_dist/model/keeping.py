"""What a layer keeps from the forward pass for the backward pass, which then need not make it again.

In: the results of a layer's matrix products and of its attention, while it contributes. Out: the same results while it is
undone, differentiable by what they were made of. A reversible layer needs none of them: whatever is kept is memory spent on
speed, and changes no gradient.

Legend: N features of an input, M of a result.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from reformer_dist.config.sections.model import KEEP_LEVELS, KeepLevel
from reformer_dist.model.backends.products import gradients, linear

Results = tuple[Tensor, ...]


class Kept:
    """What one layer keeps, or a part of it that works on some of the tokens or heads. Each result has a name."""

    def __init__(self, level: KeepLevel) -> None:
        """Start empty; `level` is the last of `KEEP_LEVELS` whose results are kept."""
        self.level = level
        self._results: dict[str, Results] = {}
        self._parts: dict[int, Kept] = {}

    def at(self, place: int) -> "Kept":
        """What is kept of the tokens or heads that begin there."""
        return self._parts.setdefault(place, Kept(self.level))

    def has(self, level: KeepLevel) -> bool:
        """Whether results of this level are kept."""
        return KEEP_LEVELS.index(level) <= KEEP_LEVELS.index(self.level)

    def result(self, name: str) -> Results | None:
        """What is kept under a name; None if nothing is."""
        return self._results.get(name)

    def keep(self, name: str, results: Results) -> None:
        """Keep results, from now on as they are."""
        self._results[name] = tuple(x.detach() for x in results)

    def clear(self) -> None:
        """Keep nothing any more."""
        self._results.clear()
        self._parts.clear()


def found_or_made(kept: Kept | None, name: str, level: KeepLevel, make: Callable[[], Results]) -> Results:
    """Results that are kept, or else made, and kept if their level is. For what autograd does not look into."""
    found = None if kept is None else kept.result(name)
    if found is not None:
        return found
    results = make()
    if kept is not None and kept.has(level):
        kept.keep(name, results)
    return results


def product(
    x: Tensor,
    weight_MN: Tensor,
    bias_M: Tensor | None = None,
    *,
    kept: Kept | None = None,
    name: str = "",
    level: KeepLevel = "products",
    is_seen: bool = True,
) -> Tensor:
    """X times a matrix, plus a bias, [..., M]: as it is kept, or made, and kept if its level is.

    Args:
        x: [..., N].
        weight_MN: the matrix.
        bias_M: the bias; None for none.
        kept: where results are; None keeps none.
        name: of this result.
        level: of this result.
        is_seen: whether somebody looks at the result. If not, it is zeros with a product's gradients, and no arithmetic.

    """
    if not is_seen:
        return _unseen_product(x, weight_MN, bias_M)
    found = None if kept is None else kept.result(name)
    if found is not None:
        return _known_product(x, weight_MN, bias_M, found[0])
    out = linear(x, weight_MN, bias_M)
    if kept is not None and kept.has(level):
        kept.keep(name, (out,))
    return out


def _unseen_product(x: Tensor, weight_MN: Tensor, bias_M: Tensor | None) -> Tensor:
    is_cast = torch.is_autocast_enabled(x.device.type)
    dtype = torch.get_autocast_dtype(x.device.type) if is_cast and x.dtype == torch.float32 else x.dtype
    zero = torch.zeros((), dtype=dtype, device=x.device)
    return _known_product(x, weight_MN, bias_M, zero.expand(*x.shape[:-1], weight_MN.shape[0]))


def _known_product(x: Tensor, weight_MN: Tensor, bias_M: Tensor | None, known: Tensor) -> Tensor:
    bias_M = None if bias_M is None else bias_M.to(known.dtype)
    with torch.autocast(x.device.type, enabled=False):
        return _KnownProduct.apply(x.to(known.dtype), weight_MN.to(known.dtype), bias_M, (known,))


class _KnownProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, known: Results) -> Tensor:
        ctx.save_for_backward(x, weight)
        return known[0].detach()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        return *gradients(grad, x, weight, ctx.needs_input_grad[:3]), None
