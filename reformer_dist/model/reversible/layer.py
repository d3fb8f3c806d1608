"""What a reversible stack is made of: layers that add to a stream, and that can be undone.

In: the stream a layer reads [B, T, E]. Out: what the layer adds to another stream; or, in the backward pass, that stream
without it, and gradients.

Legend: B batch, T tokens of this shard, E model dimension.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from reformer_dist.config.sections.model import KeepLevel
from reformer_dist.model.context import Context
from reformer_dist.model.keeping import Kept
from reformer_dist.model.reversible.undoing import Addition, Leaves, defer


class Layer(nn.Module, ABC):
    """A layer of a reversible stack. A subclass implements `_contribution` and `_undo`; others call the public two.

    ZeRO-3 divides parameters over the workers. It gathers a module's before the module is *called*, and again before the
    backward pass of what the call returned. So whatever reads parameters must lie inside a call, and this class makes all
    calls: `forward` does nothing but run the method that it is given. For the same reason a layer's parameters are its own,
    not those of modules inside it, and undoing is the backward pass of a scalar that a call has returned.
    """

    keep: KeepLevel = "nothing"
    """What is kept of it from the forward to the backward pass."""

    def contribute(
        self, x_BTE: Tensor, context: Context, found: Any = None, kept: Kept | None = None
    ) -> tuple[Tensor, Any]:
        """What the layer adds to the stream.

        Args:
            x_BTE: the stream that the layer reads.
            context: place of the tokens.
            found: what an earlier call on the same input found, to be used again; None in the first.
            kept: where results are kept for `undo`; None where nothing is.

        Returns:
            The contribution [B, T, E], and what was found on the way (None where there is nothing to find).

        """
        contribution, found = self(self._contribution, x_BTE, context, found, kept)
        return contribution, found

    def undo(self, x_BTE: Tensor, context: Context, found: Any, addition: Addition, kept: Kept | None = None) -> None:
        """Take the contribution off the stream again, and add gradients: the input's in place, parameters' by autograd.

        Args:
            x_BTE: the stream that the layer reads.
            context: place of the tokens.
            found: what `contribute` found.
            addition: the stream that the contribution is part of, and the gradients of both.
            kept: what `contribute` kept.

        """
        anchor = torch.zeros((), device=x_BTE.device, requires_grad=True)
        with torch.enable_grad():
            scalar = self(self._deferred_undo, x_BTE, context, found, addition, kept, anchor)
        with torch.autocast(x_BTE.device.type, enabled=False):  # as backward passes run
            torch.autograd.backward(scalar)

    def forward(self, method: Callable[..., Any], *arguments: Any) -> Any:
        """Run one of this layer's methods. Only `contribute` and `undo` call this."""
        return method(*arguments)

    @abstractmethod
    def _contribution(self, x_BTE: Tensor, context: Context, found: Any, kept: Kept | None) -> tuple[Tensor, Any]:
        """See `contribute`."""

    @abstractmethod
    def _undo(
        self, x_BTE: Tensor, context: Context, found: Any, addition: Addition, kept: Kept | None, leaves: Leaves
    ) -> None:
        """See `undo`. Gradients are off, and parameters are those of `leaves`, which sums their gradients."""

    def _deferred_undo(
        self, x_BTE: Tensor, context: Context, found: Any, addition: Addition, kept: Kept | None, anchor: Tensor
    ) -> Tensor:
        """A scalar whose backward pass undoes. `anchor` is an argument for ZeRO-3's sake: its gradient ends the pass."""
        return defer(partial(self._undo, x_BTE, context, found, addition, kept), anchor, list(self.parameters()))
