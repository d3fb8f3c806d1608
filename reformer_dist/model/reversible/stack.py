"""Reversible residual blocks (Gomez et al. 2017; Reformer, section 3): activations are rebuilt instead of kept.

In: two streams [B, T, E] and blocks of layers. Out: two streams. The layers take turns: the first reads the second stream
and adds to the first, the next one the other way round, and so on through all blocks. Two layers F and G compute

    y1 = x1 + F(x2)        x2 = y2 - G(y1)
    y2 = x2 + G(y1)        x1 = y1 - F(x2)

so the backward pass walks from the last outputs to the first inputs, and memory does not grow with depth. It undoes each
layer (`layer.py`) with the forward's buckets, dropout and autocast, changing streams and gradients in place.

Layers of a decoder also read a source, which none of them changes. It is kept, and its gradient is the sum of theirs.

Legend: B batch, T tokens of this shard, S tokens of this shard of the source, E model dimension.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from reformer_dist.model.context import Context
from reformer_dist.model.keeping import Kept
from reformer_dist.model.reversible.layer import Layer
from reformer_dist.model.reversible.recomputation import autocast_of_now
from reformer_dist.model.reversible.undoing import Addition

Head = Callable[[Tensor, Tensor], Tensor]
"""A scalar of the two streams, such as a loss."""


class ReversibleBlock(nn.Module):
    """Some layers in order, each of which reads one of the two streams and adds to the other."""

    def __init__(self, layers: Mapping[str, Layer]) -> None:
        """Take the layers in order; their names become part of their parameters' names."""
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers in order."""
        return tuple(layer for layer in self.children() if isinstance(layer, Layer))


class ReversibleStack(nn.Module):
    """All blocks, one behind the other."""

    def __init__(self, blocks: Iterable[Mapping[str, Layer]], reversible: bool = True) -> None:
        """Make blocks of layers; without `reversible`, plain autograd differentiates them, for debugging."""
        super().__init__()
        self.reversible = reversible
        self.blocks: Any = nn.ModuleList(ReversibleBlock(layers) for layers in blocks)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers of all blocks in order."""
        return tuple(layer for block in self.blocks for layer in block.layers)

    def forward(self, x1: Tensor, x2: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """The two streams after the last block."""
        if self.reversible and torch.is_grad_enabled():
            return _apply(x1, x2, self.layers, context, None)
        streams = [x1, x2]
        for index, layer in enumerate(self.layers):
            to, read = index % 2, 1 - index % 2
            streams[to] = streams[to] + layer.contribute(streams[read], context)[0]
        return streams[0], streams[1]

    def reduce(self, x1: Tensor, x2: Tensor, context: Context, head: Head) -> Tensor:
        """`head` of the two streams, which nobody else sees, so that their memory serves the backward pass too."""
        if self.reversible and torch.is_grad_enabled():
            return _apply(x1, x2, self.layers, context, head)
        return head(*self(x1, x2, context))


def _apply(x1: Tensor, x2: Tensor, layers: Sequence[Layer], context: Context, head: Head | None) -> Any:
    anchor = torch.zeros((), device=x1.device, requires_grad=True)
    memory_BSE = None if context.source is None else context.source.memory_BSE
    return _Reversible.apply(x1, x2, anchor, memory_BSE, layers, context, head)


class _Streams:
    """The streams at the outputs, and after a backward pass at the inputs; held by nobody else, so memory is freed early."""

    def __init__(self, first: Tensor, second: Tensor, layers: Sequence[Layer]) -> None:
        self.both = [first, second]
        self.own = False
        """Whether they may be changed in place."""
        self.at_outputs = True
        self.before: list[Tensor | None] = [None] * len(layers)
        """Of layers that keep it, the stream that they add to, as it was before."""
        self.kept = [None if layer.keep == "nothing" else Kept(layer.keep) for layer in layers]
        """What layers keep beside that."""

    def put_back(self, index: int) -> bool:
        """Take the stream that a layer adds to as it was before the layer, if it is kept; returns whether it is."""
        before, self.before[index] = self.before[index], None
        if before is not None:
            self.both[index % 2] = before
        return before is not None

    def forget(self, index: int) -> None:
        """Keep nothing of a layer any more."""
        if (kept := self.kept[index]) is not None:
            kept.clear()


class _Reversible(torch.autograd.Function):
    """`anchor` requires a gradient, so that the layers' parameters get theirs where the streams themselves need none."""

    @staticmethod
    def forward(
        ctx: Any,
        x1: Tensor,
        x2: Tensor,
        anchor: Tensor,
        memory_BSE: Tensor | None,
        layers: Sequence[Layer],
        context: Context,
        head: Head | None,
    ) -> tuple[Tensor, Tensor] | Tensor:
        if context.source is not None:  # its graph is the caller's
            context = replace(context, source=context.source.detached())
        ctx.layers, ctx.context, ctx.head, ctx.found = layers, context, head, [None] * len(layers)
        ctx.autocast = autocast_of_now(x1.device.type)
        ctx.streams = streams = _Streams(x1, x2, layers)
        _walk_forward(ctx, streams)
        if head is not None:
            return head(*streams.both)
        streams.own = False
        return streams.both[0].view_as(x1), streams.both[1].view_as(x2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        streams: _Streams = ctx.streams
        if not streams.at_outputs:  # a second backward pass through the same graph
            with torch.no_grad(), ctx.autocast():
                _walk_forward(ctx, streams)
        grads_of_streams = (
            [grad.clone() for grad in grads] if ctx.head is None else _grads_of_head(ctx, streams, *grads)
        )
        if not streams.own and None in streams.before:
            streams.both, streams.own = [x.clone() for x in streams.both], True
        context, grad_BSE = ctx.context, None
        if context.source is not None:
            grad_BSE = torch.zeros_like(context.source.memory_BSE)
            context = replace(context, source=context.source.with_gradient(grad_BSE))
        for index in reversed(range(len(ctx.layers))):
            to, read = index % 2, 1 - index % 2
            is_kept = streams.put_back(index)
            addition = Addition(None if is_kept else streams.both[to], grads_of_streams[to], grads_of_streams[read])
            with ctx.autocast():
                ctx.layers[index].undo(streams.both[read], context, ctx.found[index], addition, streams.kept[index])
            streams.forget(index)
        streams.own &= streams.kept[0] is streams.kept[1] is None  # else they are the caller's again
        streams.at_outputs = False
        return *grads_of_streams, None, grad_BSE, None, None, None


def _grads_of_head(ctx: Any, streams: _Streams, grad: Tensor) -> list[Tensor]:
    both = [x.detach().requires_grad_() for x in streams.both]
    with torch.enable_grad(), ctx.autocast():
        value = ctx.head(*both)
    torch.autograd.backward(value, grad)
    found = [x.grad for x in both if x.grad is not None]
    assert len(found) == 2
    return found


def _walk_forward(ctx: Any, streams: _Streams) -> None:
    """Take the streams from the inputs to the outputs, in place once they are our own."""
    for index, layer in enumerate(ctx.layers):
        to, read = index % 2, 1 - index % 2
        kept = streams.kept[index]
        contribution, ctx.found[index] = layer.contribute(streams.both[read], ctx.context, ctx.found[index], kept)
        # The second stream may be the very tensor that the first one is, so neither is our own before both are new.
        own = streams.own
        if kept is not None:
            streams.before[index] = streams.both[to]
        in_place = own and kept is None
        streams.both[to] = streams.both[to].add_(contribution) if in_place else streams.both[to] + contribution
        del contribution
        streams.own = own or index % 2 == 1
    streams.at_outputs = True
