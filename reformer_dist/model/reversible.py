"""Reversible residual blocks (Gomez et al. 2017; Reformer, section 3): activations are rebuilt instead of kept.

In: two streams [B, T, E]. Out: two streams. A block computes

    y1 = x1 + Attention(x2)        x2 = y2 - FeedForward(y1)
    y2 = x2 + FeedForward(y1)      x1 = y1 - Attention(x2)

so the backward pass walks from the last outputs to the first inputs, and memory does not grow with depth. It replays each
layer with the forward's buckets, dropout and autocast, and calls torch.autograd.backward on it: parameters' gradients
arrive by the ordinary way, once each, as ZeRO's hooks expect.

Legend: B batch, T tokens of this shard, E model dimension.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from reformer_dist.config import ModelConfig
from reformer_dist.model.attention import Attention
from reformer_dist.model.context import Context
from reformer_dist.model.feed_forward import FeedForward
from reformer_dist.model.recompute import replay_autocast


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
            anchor = torch.zeros((), device=x1.device, requires_grad=True)
            return _Reversible.apply(x1, x2, anchor, self.blocks, context)
        for block in self.blocks:
            x1, x2, _ = block(x1, x2, context)
        return x1, x2


class _Streams:
    """The streams at the outputs, and after a backward pass at the inputs; held by nobody else, so memory is freed early."""

    def __init__(self, first: Tensor, second: Tensor) -> None:
        self.first, self.second = first, second
        self.at_outputs = True


class _Reversible(torch.autograd.Function):
    """`anchor` requires a gradient, so that the blocks' parameters get theirs where the streams themselves need none."""

    @staticmethod
    def forward(
        ctx: Any, x1: Tensor, x2: Tensor, anchor: Tensor, blocks: Sequence[ReversibleBlock], context: Context
    ) -> tuple[Tensor, Tensor]:
        ctx.blocks, ctx.context, ctx.found = blocks, context, []
        ctx.autocast = replay_autocast(x1.device.type)
        for block in blocks:
            x1, x2, found = block(x1, x2, context)
            ctx.found.append(found)
        ctx.streams = _Streams(x1, x2)
        return x1.view_as(x1), x2.view_as(x2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad1: Tensor, grad2: Tensor) -> tuple[Tensor | None, ...]:
        streams: _Streams = ctx.streams
        if not streams.at_outputs:  # a second backward pass through the same graph
            _walk_forward(ctx, streams)
        grad1, grad2 = grad1.clone(), grad2.clone()
        for block, found in zip(reversed(ctx.blocks), reversed(ctx.found), strict=True):
            y1 = streams.first.detach().requires_grad_()
            with torch.enable_grad(), ctx.autocast():
                contribution = block.feed_forward(y1, ctx.context)
            streams.second = streams.second - contribution.detach()
            torch.autograd.backward(contribution, grad2.to(contribution.dtype))
            assert y1.grad is not None
            grad1 += y1.grad
            x2 = streams.second.detach().requires_grad_()
            with torch.enable_grad(), ctx.autocast():
                contribution, _ = block.attention(x2, ctx.context, found)
            streams.first = streams.first - contribution.detach()
            torch.autograd.backward(contribution, grad1.to(contribution.dtype))
            assert x2.grad is not None
            grad2 += x2.grad
        streams.at_outputs = False
        return grad1, grad2, None, None, None


def _walk_forward(ctx: Any, streams: _Streams) -> None:
    with torch.no_grad(), ctx.autocast():
        for block, found in zip(ctx.blocks, ctx.found, strict=True):
            streams.first = streams.first + block.attention(streams.second, ctx.context, found)[0]
            streams.second = streams.second + block.feed_forward(streams.first, ctx.context)
    streams.at_outputs = True
