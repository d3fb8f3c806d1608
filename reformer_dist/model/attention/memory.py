"""What decoding keeps of the tokens so far: the interface of a memory, and that of attention to the newest tokens.

In: projections of new tokens [B, T, H, D]. Out: their results, equal to those of the whole sequence at once.

Legend: B batch, T tokens, H heads, D head dimension.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from reformer_dist.model.layers.convolution import RecentTokens


class Memory(Protocol):
    """What some heads of an attention layer keep of the tokens so far."""

    def attend(self, tensors: tuple[Tensor, ...]) -> Tensor:
        """Results [B, T, H, D] of new tokens, which are then remembered; `tensors` are their kind's projections."""


@dataclass(frozen=True)
class LayerMemory:
    """What an attention layer keeps of the tokens so far."""

    recent: RecentTokens
    """Its input, as far as the convolution reaches back."""
    of_groups: Sequence[Memory]
    """What each head group keeps."""


class GrowingRows:
    """Rows [B, T, H, D] that grow at the end, with room to spare so that growing is rare."""

    def __init__(self) -> None:
        self._rows: Tensor | None = None
        self.length = 0

    def append(self, x_BTHD: Tensor) -> Tensor:
        """Add rows; returns all so far."""
        end = self.length + x_BTHD.shape[1]
        if self._rows is None:
            self._rows = x_BTHD.clone()
        elif end > self._rows.shape[1]:
            self._rows = pad(self._rows, (0, 0, 0, 0, 0, max(64, 2 * end) - self._rows.shape[1]))
        self._rows[:, self.length : end] = x_BTHD
        self.length = end
        return self._rows[:, :end]


class NewestTokens:
    """The memory of local and full attention: keys and values of all tokens, of which a query sees the newest."""

    def __init__(
        self,
        attend: Callable[[Tensor, Tensor, Tensor], Tensor],
        turned: Callable[[Tensor, int], Tensor],
        oldest: Callable[[int], int],
    ) -> None:
        """Start empty.

        Args:
            attend: queries, keys and values of the first tokens -> their results.
            turned: see `Kind.turned`.
            oldest: position of a query -> the first position that it sees.

        """
        self._attend, self._turned, self._oldest = attend, turned, oldest
        self._keys, self._values = GrowingRows(), GrowingRows()

    def attend(self, tensors: tuple[Tensor, ...]) -> Tensor:
        """See `Memory`."""
        q, k, v = tensors
        start = self._keys.length
        keys, values = self._keys.append(self._turned(k, start)), self._values.append(v)
        if start == 0:
            return self._attend(q, k, v)
        q = self._turned(q, start)
        return torch.cat([self._one(q[:, i : i + 1], keys, values, start + i) for i in range(q.shape[1])], dim=1)

    def _one(self, q_B1HD: Tensor, keys_BTHD: Tensor, values_BTHD: Tensor, position: int) -> Tensor:
        part = slice(self._oldest(position), position + 1)
        scores = torch.einsum("bqhd,bkhd->bhqk", q_B1HD, keys_BTHD[:, part]) * q_B1HD.shape[-1] ** -0.5
        return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), values_BTHD[:, part])
