"""A shard's tokens between the nearest tokens of the neighbouring shards, which are borrowed from other workers.

In: a tensor of this shard and `Neighbours`, who lend the tokens on either side. Out: pieces of tokens, which may reach over
the shard's edges; gradients are added to whichever tensor a token lies in. The three tensors are never copied into one.

Legend: B batch, T tokens of this shard, L and R tokens borrowed from the left and the right, S = L + T + R.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from reformer_dist.model.context import Context
from reformer_dist.model.reversible.undoing import Addition, Cut, Leaves


class Neighbours:
    """The workers that hold the shards beside this one; here of a worker that has its sequences for itself: nobody."""

    def borrow(self, x_BT: Tensor) -> tuple[Tensor, Tensor]:
        """The neighbours' nearest tokens [B, L, ...] and [B, R, ...], differentiable.

        At a sequence's ends there are fewer, or none.
        """
        return x_BT[:, :0], x_BT[:, :0]

    def give_back(self, own_BT: Tensor, left_BL: Tensor, right_BR: Tensor) -> None:
        """Send borrowed tokens' gradients home; add in place to `own_BT` those of the tokens that others borrowed."""


class SurroundedTokens:
    """Three tensors that read as one, [B, S, ...]. Slices count from the first borrowed token."""

    def __init__(self, own_BT: Tensor, left_BL: Tensor, right_BR: Tensor) -> None:
        self.own, self.left, self.right = own_BT, left_BL, right_BR
        self.start = left_BL.shape[1]
        """Place of this shard's first token."""
        self.end = self.start + own_BT.shape[1]

    @property
    def whole(self) -> Tensor:
        """All of them in one tensor [B, S, ...]; empty ends too, so that every worker takes part in giving back."""
        return torch.cat([self.left, self.own, self.right], dim=1)

    def cuts(self, length: int, before: int, after: int) -> Iterator[Cut]:
        """Pieces of `length` own tokens, each with up to `before` and `after` tokens around it."""
        for start in range(self.start, self.end, length):
            end = min(start + length, self.end)
            yield slice(start, end), slice(max(0, start - before), min(end + after, self.end + self.right.shape[1]))

    def in_shard(self, own: slice) -> slice:
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


def surround(x_BTE: Tensor, context: Context, neighbours: Neighbours) -> tuple[SurroundedTokens, Context]:
    """A stream between its neighbours' tokens, and the place of the first of those."""
    tokens = SurroundedTokens(x_BTE, *neighbours.borrow(x_BTE))
    documents_BS = context.documents_BT
    if documents_BS is not None:
        left, right = neighbours.borrow(documents_BS)
        documents_BS = torch.cat([left, documents_BS, right], dim=1)
    return tokens, replace(context, documents_BT=documents_BS, first_position=context.first_position - tokens.start)


def undo_pieces(
    piece: Callable[[Tensor, Cut, Sequence[Tensor]], Tensor],
    tokens: SurroundedTokens,
    cuts: Iterable[Cut],
    addition: Addition,
    leaves: Leaves,
) -> SurroundedTokens:
    """Undo a layer whose contribution to some tokens is `piece` of the tokens around them.

    Returns the input's gradients, those of this shard in `addition`.
    """
    grads = gradients_of(tokens, addition)
    for own, seen in cuts:
        x = tokens.read(seen).detach().requires_grad_()
        with torch.enable_grad():
            contribution = piece(x, (own, seen), leaves.parameters)
        here = tokens.in_shard(own)
        addition.take_off(here, contribution)
        (gradient,) = leaves.pull([contribution], [addition.grad_BTE[:, here]], [x])
        grads.add(seen, gradient)
    return grads


def gradients_of(tokens: SurroundedTokens, addition: Addition) -> SurroundedTokens:
    """Where the gradients of a layer's input are added: to the addition's tensor, and to new ones for borrowed tokens."""
    return SurroundedTokens(addition.grad_input_BTE, torch.zeros_like(tokens.left), torch.zeros_like(tokens.right))
