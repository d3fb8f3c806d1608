"""Reversible residual blocks (Gomez et al. 2017; Reformer, section 3): activations are rebuilt instead of kept.

In: two streams [B, T, E]. Out: two streams. A block computes

    y1 = x1 + Attention(x2)        x2 = y2 - FeedForward(y1)
    y2 = x2 + FeedForward(y1)      x1 = y1 - Attention(x2)

so the backward pass walks from the last outputs to the first inputs, and memory does not grow with depth. It replays each
layer (`replay.py`) with the forward's buckets, dropout and autocast, changing streams and gradients in place, and calls
torch.autograd.backward on it: parameters' gradients arrive by the ordinary way, once each, as ZeRO's hooks expect.

Legend: B batch, T tokens of this shard, E model dimension.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from reformer_dist.config import ModelConfig
from reformer_dist.model.attention.layer import Attention
from reformer_dist.model.context import Context
from reformer_dist.model.layers.feed_forward import FeedForward
from reformer_dist.model.reversible.recomputation import replay_autocast
from reformer_dist.model.reversible.undoing import Replay

Head = Callable[[Tensor, Tensor], Tensor]
"""A scalar of the two streams, such as a loss."""


class ReversibleBlock(nn.Module):
    """One attention and one feed-forward layer."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attention = Attention(config, layer)
        self.feed_forward = FeedForward(config, layer)

    def forward(self, x1: Tensor, x2: Tensor, context: Context) -> tuple[Tensor, Tensor, Any]:
        """The two new streams and what attention found (LSH: its buckets)."""
        attended, found = self.attention(x2, context)
        y1 = x1 + attended
        return y1, x2 + self.feed_forward(y1, context), found


class ReversibleStack(nn.Module):
    """All blocks, one behind the other."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.reversible = config.reversible
        self.blocks: Any = nn.ModuleList(ReversibleBlock(config, layer) for layer in range(len(config.layers)))

    def forward(self, x1: Tensor, x2: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """The two streams after the last block; with `reversible` off, by plain autograd."""
        if self.reversible and torch.is_grad_enabled():
            return _Reversible.apply(x1, x2, _anchor(x1), self.blocks, context, None)
        for block in self.blocks:
            x1, x2, _ = block(x1, x2, context)
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
        ctx.blocks, ctx.context, ctx.head, ctx.found = blocks, context, head, [None] * len(blocks)
        ctx.autocast = replay_autocast(x1.device.type)
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
            anchor = _anchor(grad1)
            with torch.enable_grad(), ctx.autocast():
                scalar = block.feed_forward(streams.first, ctx.context, Replay(streams.second, grad2, grad1), anchor)
            torch.autograd.backward(scalar)
            with torch.enable_grad(), ctx.autocast():
                tensors = Replay(streams.first, grad1, grad2)
                scalar, _ = block.attention(streams.second, ctx.context, found, tensors, anchor)
            torch.autograd.backward(scalar)
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
        contribution, ctx.found[index] = block.attention(streams.second, ctx.context, ctx.found[index])
        streams.first = streams.first.add_(contribution) if streams.own else streams.first + contribution
        del contribution
        contribution = block.feed_forward(streams.first, ctx.context)
        streams.second = streams.second.add_(contribution) if streams.own else streams.second + contribution
        del contribution
        streams.own = True
    streams.at_outputs = True
