"""A shard's tokens with the nearest ones of its neighbours around them, of which no copy in one piece is made.

In: a tensor of this shard and `Neighbours` to borrow from. Out: pieces that reach over the shard's edges, and gradients that
go back to whom the tokens belong. A worker that has its sequences for itself borrows nothing.

Legend: B batch, T tokens of this shard, L and R tokens borrowed from the left and the right, S = L + T + R.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from reformer_dist.model.reversible.undoing import Cut, Leaves, Replay


class Neighbours(Protocol):
    """Who holds the tokens before and behind this shard's."""

    def borrow(self, x_BT: Tensor) -> tuple[Tensor, Tensor]:
        """The others' nearest tokens [B, L, ...] and [B, R, ...], differentiable; fewer, or none, at the sequence's ends."""

    def give_back(self, own_BT: Tensor, left_BL: Tensor, right_BR: Tensor) -> None:
        """Send the borrowed tokens' gradients home; add in place to `own_BT` those of the tokens that others borrowed."""


class NoNeighbours:
    """Of a worker that has its sequences for itself."""

    def borrow(self, x_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Nothing."""
        return x_BT[:, :0], x_BT[:, :0]

    def give_back(self, own_BT: Tensor, left_BL: Tensor, right_BR: Tensor) -> None:
        """Nothing."""


class Strip:
    """Three tensors that read as one, [B, S, ...]. Slices count from the first borrowed token."""

    def __init__(self, own_BT: Tensor, left_BL: Tensor, right_BR: Tensor) -> None:
        self.own, self.left, self.right = own_BT, left_BL, right_BR
        self.start = left_BL.shape[1]
        """Place of this shard's first token."""
        self.end = self.start + own_BT.shape[1]

    def cuts(self, length: int, before: int, after: int) -> Iterator[Cut]:
        """Stretches of `length` own tokens, each with up to `before` and `after` tokens around it."""
        for start in range(self.start, self.end, length):
            end = min(start + length, self.end)
            yield slice(start, end), slice(max(0, start - before), min(end + after, self.end + self.right.shape[1]))

    def home(self, own: slice) -> slice:
        """The same own tokens, counted from this shard's first."""
        return slice(own.start - self.start, own.stop - self.start)

    def read(self, seen: slice) -> Tensor:
        """Some of the tokens; a copy only where they reach over an edge."""
        parts = [x for x, _ in self._parts(seen)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def add(self, seen: slice, x_BS: Tensor) -> None:
        """Add to some of the tokens in place."""
        for part, place in self._parts(seen):
            part += x_BS[:, place]

    def _parts(self, seen: slice) -> list[tuple[Tensor, slice]]:
        """Views of what is seen of each tensor, and where in the slice it stands."""
        parts, first = [], 0
        for x in (self.left, self.own, self.right):
            last = first + x.shape[1]
            start, end = max(seen.start, first), min(seen.stop, last)
            if start < end:
                parts.append((x[:, start - first : end - first], slice(start - seen.start, end - seen.start)))
            first = last
        return parts


def replay_pieces(
    piece: Callable[[Tensor, Cut, Sequence[Tensor]], Tensor],
    strip: Strip,
    cuts: Iterable[Cut],
    tensors: Replay,
    leaves: Leaves,
) -> Strip:
    """Replay a layer whose contribution to some tokens is `piece` of the tokens around them.

    Returns the input's gradients, those of this shard in `tensors`.
    """
    grads = Strip(tensors.grad_input_BTE, torch.zeros_like(strip.left), torch.zeros_like(strip.right))
    for own, seen in cuts:
        x = strip.read(seen).detach().requires_grad_()
        with torch.enable_grad():
            contribution = piece(x, (own, seen), leaves.parameters)
        home = strip.home(own)
        tensors.stream_BTE[:, home] -= contribution.detach()
        (gradient,) = leaves.pull([contribution], [tensors.grad_BTE[:, home]], [x])
        grads.add(seen, gradient)
    return grads
