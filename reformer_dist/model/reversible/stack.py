"""Reversible residual blocks (Gomez et al. 2017; Reformer, section 3): activations are rebuilt instead of kept.

In: two streams [B, T, E] and blocks of two layers each. Out: two streams. A block of the layers F and G computes

    y1 = x1 + F(x2)        x2 = y2 - G(y1)
    y2 = x2 + G(y1)        x1 = y1 - F(x2)

so the backward pass walks from the last outputs to the first inputs, and memory does not grow with depth. It undoes each
layer (`layer.py`) with the forward's buckets, dropout and autocast, changing streams and gradients in place.

Legend: B batch, T tokens of this shard, E model dimension.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from reformer_dist.model.context import Context
from reformer_dist.model.reversible.layer import Layer
from reformer_dist.model.reversible.recomputation import autocast_of_now
from reformer_dist.model.reversible.undoing import Addition

Head = Callable[[Tensor, Tensor], Tensor]
"""A scalar of the two streams, such as a loss."""


class ReversibleBlock(nn.Module):
    """Two layers: the first reads the second stream and adds to the first stream, the second the other way round."""

    def __init__(self, layers: Mapping[str, Layer]) -> None:
        """Take the two layers in order; their names become part of their parameters' names."""
        super().__init__()
        assert len(layers) == 2
        for name, layer in layers.items():
            self.add_module(name, layer)

    @property
    def layers(self) -> tuple[Layer, Layer]:
        """The two layers in order."""
        first, second = self.children()
        assert isinstance(first, Layer)
        assert isinstance(second, Layer)
        return first, second

    def forward(self, x1: Tensor, x2: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """The two new streams."""
        first, second = self.layers
        y1 = x1 + first.contribute(x2, context)[0]
        return y1, x2 + second.contribute(y1, context)[0]


class ReversibleStack(nn.Module):
    """All blocks, one behind the other."""

    def __init__(self, blocks: Iterable[Mapping[str, Layer]], reversible: bool = True) -> None:
        """Make blocks of pairs of layers; without `reversible`, plain autograd differentiates them, for debugging."""
        super().__init__()
        self.reversible = reversible
        self.blocks: Any = nn.ModuleList(ReversibleBlock(layers) for layers in blocks)

    def forward(self, x1: Tensor, x2: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """The two streams after the last block."""
        if self.reversible and torch.is_grad_enabled():
            return _Reversible.apply(x1, x2, _anchor(x1), self.blocks, context, None)
        for block in self.blocks:
            x1, x2 = block(x1, x2, context)
        return x1, x2

    def reduce(self, x1: Tensor, x2: Tensor, context: Context, head: Head) -> Tensor:
        """`head` of the two streams, which nobody else sees, so that their memory serves the backward pass too."""
        if self.reversible and torch.is_grad_enabled():
            return _Reversible.apply(x1, x2, _anchor(x1), self.blocks, context, head)
        return head(*self(x1, x2, context))


class _Streams:
    """The streams at the outputs, and after a backward pass at the inputs; held by nobody else, so memory is freed early."""

    def __init__(self, first: Tensor, second: Tensor) -> None:
        self.first, self.second = first, second
        self.own = False
        """Whether they may be changed in place."""
        self.at_outputs = True


class _Reversible(torch.autograd.Function):
    """`anchor` requires a gradient, so that the blocks' parameters get theirs where the streams themselves need none."""

    @staticmethod
    def forward(
        ctx: Any,
        x1: Tensor,
        x2: Tensor,
        anchor: Tensor,
        blocks: Sequence[ReversibleBlock],
        context: Context,
        head: Head | None,
    ) -> tuple[Tensor, Tensor] | Tensor:
        ctx.blocks, ctx.context, ctx.head, ctx.found = blocks, context, head, [(None, None)] * len(blocks)
        ctx.autocast = autocast_of_now(x1.device.type)
        ctx.streams = streams = _Streams(x1, x2)
        _walk_forward(ctx, streams)
        if head is not None:
            return head(streams.first, streams.second)
        streams.own = False
        return streams.first.view_as(x1), streams.second.view_as(x2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        streams: _Streams = ctx.streams
        if not streams.at_outputs:  # a second backward pass through the same graph
            with torch.no_grad(), ctx.autocast():
                _walk_forward(ctx, streams)
        if ctx.head is None:
            grad1, grad2 = (grad.clone() for grad in grads)
        else:
            grad1, grad2 = _grads_of_head(ctx, streams, *grads)
        if not streams.own:
            streams.first, streams.second, streams.own = streams.first.clone(), streams.second.clone(), True
        for block, found in zip(reversed(ctx.blocks), reversed(ctx.found), strict=True):
            first, second = block.layers
            with ctx.autocast():
                second.undo(streams.first, ctx.context, found[1], Addition(streams.second, grad2, grad1))
                first.undo(streams.second, ctx.context, found[0], Addition(streams.first, grad1, grad2))
        streams.at_outputs = False
        return grad1, grad2, None, None, None, None


def _anchor(x: Tensor) -> Tensor:
    return torch.zeros((), device=x.device, requires_grad=True)


def _grads_of_head(ctx: Any, streams: _Streams, grad: Tensor) -> tuple[Tensor, Tensor]:
    first, second = (x.detach().requires_grad_() for x in (streams.first, streams.second))
    with torch.enable_grad(), ctx.autocast():
        value = ctx.head(first, second)
    torch.autograd.backward(value, grad)
    assert first.grad is not None
    assert second.grad is not None
    return first.grad, second.grad


def _walk_forward(ctx: Any, streams: _Streams) -> None:
    """Take the streams from the inputs to the outputs, in place once they are our own."""
    for index, block in enumerate(ctx.blocks):
        (first, second), (found_first, found_second) = block.layers, ctx.found[index]
        contribution, found_first = first.contribute(streams.second, ctx.context, found_first)
        streams.first = streams.first.add_(contribution) if streams.own else streams.first + contribution
        del contribution
        contribution, found_second = second.contribute(streams.first, ctx.context, found_second)
        streams.second = streams.second.add_(contribution) if streams.own else streams.second + contribution
        del contribution
        ctx.found[index] = found_first, found_second
        streams.own = True
    streams.at_outputs = True
