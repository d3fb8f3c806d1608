"""What decoding keeps of the tokens so far: the interface of a memory, and that of attention to the newest tokens.

In: projections of a prompt [B, T, H, D], then those of one token more of every row [B, H, D]. Out: their results, equal to
those of the whole sequence at once.

Legend: B batch, T tokens, H heads, D head dimension, F pairs of features, C capacity.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor
from torch.nn.functional import pad

from reformer_dist.model.backends.backend import Backend, DecodingPlan
from reformer_dist.model.backends.description import AttentionWeights, StreamNorm


@dataclass(frozen=True)
class Place:
    """Where the next token of each row of a batch stands."""

    positions_B: Tensor
    """Index in its row, int64."""
    longest: int
    """The largest of them."""
    waves_BF: Tensor | None
    """Turns queries and keys there, complex; None where nothing is turned."""


class Memory(Protocol):
    """What some heads of an attention layer keep of the tokens so far."""

    def begin(self, nothing_B0HD: Tensor) -> None:
        """Begin with rows that have read nothing; the tensor has their number, and the vectors' shape."""

    def read(self, tensors: tuple[Tensor, ...]) -> Tensor:
        """Results [B, T, H, D] of the first tokens, which are then remembered; `tensors` are their kind's projections."""

    def fill(self, tensors: tuple[Tensor, ...]) -> None:
        """Remember the first tokens, whose results others have made."""

    def next(self, tensors: tuple[Tensor, ...], place: Place) -> Tensor:
        """Results [B, H, D] of one token more, which is then remembered."""

    def add_to(self, plan: DecodingPlan, norm: StreamNorm, weights: AttentionWeights, longest: int) -> None:
        """Add a layer that has these heads alone to a plan, with room for a token at position `longest`."""

    def extend(self, others: Sequence[Self]) -> None:
        """Add the rows of other memories of the same heads, which have read as well, behind its own."""

    def take(self, rows_N: Tensor) -> None:
        """Go on with these rows, any number of times each."""

    @property
    def num_bytes(self) -> int:
        """What it takes."""


class TokenRows:
    """A key and a value of every token, side by side, [B, H, C, 2 D]; token i is at i modulo C."""

    def __init__(self, capacity: int | None = None) -> None:
        """Start empty, with room for the newest `capacity` tokens, or by default for as many as come."""
        self._capacity = capacity
        self._rows: Tensor | None = None

    def fill(self, keys_BTHD: Tensor, values_BTHD: Tensor) -> None:
        """Put in the first tokens."""
        T, rows = keys_BTHD.shape[1], torch.cat([keys_BTHD, values_BTHD], dim=-1).transpose(1, 2)
        if self._capacity is None:
            self._rows = rows.contiguous()
            return
        kept = torch.arange(max(0, T - self._capacity), T, device=rows.device)
        self._rows = rows.new_empty(*rows.shape[:2], self._capacity, rows.shape[3])
        self._rows[:, :, kept % self._capacity] = rows[:, :, kept]

    def with_room(self, longest: int) -> Tensor:
        """The rows, with room for a token at this position; growing is rare."""
        assert self._rows is not None
        if self._capacity is None and longest >= self._rows.shape[2]:
            self._grow(max(64, 2 * longest))
        return self._rows

    @property
    def room(self) -> int:
        """Positions below this one have room: all, where newer tokens take older ones' places."""
        assert self._rows is not None
        return self._rows.shape[2] if self._capacity is None else torch.iinfo(torch.int64).max

    def extend(self, others: Sequence["TokenRows"]) -> None:
        """Add the rows of others behind its own."""
        whole = [rows._rows for rows in (self, *others) if rows._rows is not None]
        assert len(whole) == 1 + len(others), "only what was read"
        longest = max(rows.shape[2] for rows in whole)
        self._rows = torch.cat([pad(rows, (0, 0, 0, longest - rows.shape[2])) for rows in whole])

    def take(self, rows_N: Tensor) -> None:
        """Go on with these rows."""
        assert self._rows is not None
        self._rows = self._rows.index_select(0, rows_N)

    @property
    def num_bytes(self) -> int:
        """What they take, with the room to spare."""
        return 0 if self._rows is None else self._rows.nbytes

    def _grow(self, capacity: int) -> None:
        assert self._rows is not None
        grown = self._rows.new_empty(*self._rows.shape[:2], capacity, self._rows.shape[3])
        grown[:, :, : self._rows.shape[2]] = self._rows
        self._rows = grown


class NewestTokens:
    """The memory of local and full attention: keys and values of the tokens that a query may see."""

    def __init__(
        self,
        attend: Callable[[Tensor, Tensor, Tensor], Tensor],
        turned: Callable[[Tensor, int], Tensor],
        oldest: Callable[[Tensor], Tensor],
        capacity: int | None,
        backend: Backend,
    ) -> None:
        """Start empty.

        Args:
            attend: queries, keys and values of the first tokens -> their results.
            turned: see `Kind.turned`.
            oldest: positions of queries -> the first position that each sees.
            capacity: tokens that a query sees at most, itself included; None for all.
            backend: computes one token more.

        """
        self._attend, self._turned, self._oldest, self._backend = attend, turned, oldest, backend
        self._rows = TokenRows(capacity)

    def begin(self, nothing_B0HD: Tensor) -> None:
        """See `Memory`."""
        self._rows.fill(nothing_B0HD, nothing_B0HD)

    def read(self, tensors: tuple[Tensor, ...]) -> Tensor:
        """See `Memory`."""
        self.fill(tensors)
        return self._attend(*tensors)

    def fill(self, tensors: tuple[Tensor, ...]) -> None:
        """See `Memory`."""
        _, k, v = tensors
        self._rows.fill(self._turned(k, 0), v)

    def next(self, tensors: tuple[Tensor, ...], place: Place) -> Tensor:
        """See `Memory`."""
        q, k, v = tensors
        rows, positions_B = self._rows.with_room(place.longest), place.positions_B
        return self._backend.next_of_newest(q, k, v, rows, positions_B, self._oldest(positions_B), place.waves_BF)

    def add_to(self, plan: DecodingPlan, norm: StreamNorm, weights: AttentionWeights, longest: int) -> None:
        """See `Memory`."""
        rows = self._rows.with_room(longest)
        plan.add_attention_of_newest(norm, weights, rows, self._rows.room, self._oldest)

    def extend(self, others: Sequence["NewestTokens"]) -> None:
        """See `Memory`."""
        self._rows.extend([other._rows for other in others])

    def take(self, rows_N: Tensor) -> None:
        """See `Memory`."""
        self._rows.take(rows_N)

    @property
    def num_bytes(self) -> int:
        """See `Memory`."""
        return self._rows.num_bytes
