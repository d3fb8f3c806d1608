"""Where a shard lies in the whole: what attention and dropout need to know beside the activations.

Legend: B batch, T tokens of this shard, S tokens of this shard of the source, E model dimension.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Source:
    """What a decoder's layers read of an encoder: its results for this shard of the source."""

    memory_BSE: Tensor
    """A vector for each token of the source."""
    documents_BS: Tensor | None = None
    """Document of each token, int64, -1 for padding; the target's tokens read their own document alone. None: all is one."""
    positions_BS: Tensor | None = None
    """Index of each token in its document, int64; None for first_position, first_position + 1, ..."""
    first_position: int = 0
    """Index in the whole source of this shard's first token."""
    grad_BSE: Tensor | None = None
    """In the backward pass, where layers add their gradients of the memory."""

    def positions_of(self, tokens: slice) -> Tensor:
        """Index in its document of some of the tokens, int64 [B, s]."""
        return _positions(self.positions_BS, self.first_position, tokens, self.memory_BSE)

    def detached(self) -> Self:
        """The same without the graph that made it."""
        return replace(self, memory_BSE=self.memory_BSE.detach())

    def with_gradient(self, grad_BSE: Tensor) -> Self:
        """The same with a tensor that takes gradients."""
        return replace(self, grad_BSE=grad_BSE)


@dataclass(frozen=True)
class Context:
    """The place of a shard [B, T] in its training step."""

    documents_BT: Tensor | None = None
    """Document of each token, int64, -1 for padding; None when every sequence is one document."""
    step: int = 0
    """Training step; a part of every random key."""
    first_row: int = 0
    """Index in the step's global batch of row 0."""
    first_position: int = 0
    """Index in the whole sequence of this shard's first token."""
    first_head: int = 0
    """Index in the model of head 0, where heads are sharded."""
    positions_BT: Tensor | None = None
    """Index of each token in its document, int64; None for first_position, first_position + 1, ..."""
    source: Source | None = None
    """What an encoder has made of the source, in a decoder."""

    def of_tokens(self, tokens: slice) -> Self:
        """The place of some of the tokens, counted from this shard's first."""
        documents, positions = (None if x is None else x[:, tokens] for x in (self.documents_BT, self.positions_BT))
        first = self.first_position + tokens.start
        return replace(self, documents_BT=documents, positions_BT=positions, first_position=first)

    def documents_of(self, tokens: slice) -> Tensor | None:
        """Documents of some of the tokens."""
        return None if self.documents_BT is None else self.documents_BT[:, tokens]

    def positions_like(self, x_BTE: Tensor) -> Tensor:
        """Index in its document of each token, int64 [B, T], of vectors that begin where this place does."""
        return _positions(self.positions_BT, self.first_position, slice(0, x_BTE.shape[1]), x_BTE)


def _positions(given: Tensor | None, first: int, tokens: slice, like_BTE: Tensor) -> Tensor:
    if given is not None:
        return given[:, tokens]
    return torch.arange(first + tokens.start, first + tokens.stop, device=like_BTE.device).expand(like_BTE.shape[0], -1)
