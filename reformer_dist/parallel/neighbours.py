"""Borrowing the tokens around a shard from the workers that hold them.

In: a tensor of this shard. Out: the nearest tokens of the shards before and behind it, as far as a window reaches, which may
be over several shards. Their gradients go to the workers that lent them.

Legend: B batch, t tokens of a shard, P workers.
"""

from typing import Any

import torch
from torch import Tensor

from reformer_dist.model.attention.exchange import Exchange
from reformer_dist.parallel.collectives import Peers, start_all_to_all


class NeighboursExchange(Exchange):
    """Workers lend one another the tokens that their neighbours' windows reach."""

    def __init__(self, before: int, after: int, peers: Peers) -> None:
        """Borrow up to `before` tokens from the left and `after` from the right, in a group in the order of its shards."""
        self._before, self._after = before, after
        self._peers = peers
        self._rank, self._num_workers = peers.rank, peers.num_workers

    def borrow(self, x_BT: Tensor) -> tuple[Tensor, Tensor]:
        """See `Exchange`."""
        return _Borrow.apply(x_BT, self)

    def give_back(self, own_BT: Tensor, left_BL: Tensor, right_BR: Tensor) -> None:
        """See `Exchange`."""
        t = own_BT.shape[1]
        lent = self._lent(t)
        returned = self._swap([left_BL, right_BR], self._borrowed(t), _sizes(lent))
        for part, gradient in zip(lent, returned.split(_sizes(lent), dim=1), strict=True):
            own_BT[:, part] += gradient

    def fetch(self, x_BT: Tensor) -> tuple[Tensor, Tensor]:
        """`borrow` without a gradient."""
        t = x_BT.shape[1]
        lent, borrowed = self._lent(t), self._borrowed(t)
        tokens = self._swap([x_BT[:, part] for part in lent], _sizes(lent), borrowed)
        num_left = sum(borrowed[: self._rank])
        return tokens[:, :num_left], tokens[:, num_left:]

    def _lent(self, t: int) -> list[slice]:
        """Own tokens that each worker borrows: the last ones those to the right, the first ones those to the left."""
        to_left = [slice(0, _overlap(self._after, self._rank - worker, t)) for worker in range(self._rank)]
        others = range(self._rank + 1, self._num_workers)
        return [
            *to_left,
            slice(0, 0),
            *(slice(t - _overlap(self._before, worker - self._rank, t), t) for worker in others),
        ]

    def _borrowed(self, t: int) -> list[int]:
        """How many tokens come from each worker."""
        from_left = [_overlap(self._before, self._rank - worker, t) for worker in range(self._rank)]
        others = range(self._rank + 1, self._num_workers)
        return [*from_left, 0, *(_overlap(self._after, worker - self._rank, t) for worker in others)]

    def _swap(self, parts: list[Tensor], send: list[int], receive: list[int]) -> Tensor:
        """Send tokens, side by side in `parts`, to each worker; what came from all of them [B, sum(receive), ...]."""
        rows = torch.cat(parts, dim=1).transpose(0, 1)
        return start_all_to_all(rows, send, receive, self._peers).wait().transpose(0, 1)


class _Borrow(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BT: Tensor, neighbours: NeighboursExchange) -> tuple[Tensor, Tensor]:
        ctx.neighbours, ctx.shape = neighbours, x_BT.shape
        return neighbours.fetch(x_BT)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, left: Tensor, right: Tensor) -> tuple[Tensor, None]:
        own = left.new_zeros(ctx.shape)
        ctx.neighbours.give_back(own, left, right)
        return own, None


def _overlap(reach: int, away: int, t: int) -> int:
    """Tokens of a shard so many shards away that lie within reach."""
    return max(0, min(reach - (away - 1) * t, t))


def _sizes(parts: list[slice]) -> list[int]:
    return [part.stop - part.start for part in parts]
