"""A cross-attention layer in decoding: its weights, and the keys and values of each row's source, projected once.

In: an encoder's memory of the sources of a batch; then a stream of one token more of every row [B, E]. Out: the layer's
contribution.

Legend: B batch, T tokens, S tokens of the longest source, E model dimension.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from reformer_dist.model.attention.cross.kind import SourceHeads
from reformer_dist.model.attention.cross.layer import CrossAttention
from reformer_dist.model.attention.memory import Place
from reformer_dist.model.backends.backend import DecodingPlan
from reformer_dist.model.backends.description import PADDING
from reformer_dist.model.context import Context, Source


class DecodingCrossAttention:
    """A layer and the sources of a batch."""

    def __init__(self, layer: CrossAttention, source: Source) -> None:
        """Project the keys and values of every source; each row is one document, its padding of document -1."""
        self._layer = layer
        self._heads = layer.heads_of(source)
        self._index = self._indexed()
        self._sources_B = torch.arange(len(source.memory_BSE), device=source.memory_BSE.device)
        """Number of each row's source: the beams of a source have the same keys and values."""

    def begin(self, nothing_B0E: Tensor) -> None:
        """Begin with rows that have read nothing: their sources are known."""

    def read(self, x_BTE: Tensor) -> Tensor:
        """The contribution to the first tokens [B, T, E]."""
        return self._answer(x_BTE, torch.arange(x_BTE.shape[1], device=x_BTE.device).expand(len(x_BTE), -1))

    def next(self, x_BE: Tensor, place: Place) -> Tensor:
        """The contribution to one token more [B, E]."""
        return self._answer(x_BE[:, None], place.positions_B[:, None])[:, 0]

    def add_to(self, plan: DecodingPlan, longest: int) -> bool:
        """No plan has code for it."""
        return False

    def extend(self, others: Sequence["DecodingCrossAttention"]) -> None:
        """Add the rows of others, of the same layer, behind its own."""
        everyone = (self, *others)
        whole = [each._heads for each in everyone]
        firsts = accumulate((int(each._sources_B.max()) + 1 for each in everyone), initial=0)
        numbers = [each._sources_B + first for each, first in zip(everyone, firsts, strict=False)]
        self._sources_B = torch.cat(numbers)
        longest = max(heads.k_BSHD.shape[1] for heads in whole)
        self._heads = SourceHeads(
            torch.cat([_padded(heads.k_BSHD, longest, 0) for heads in whole]),
            torch.cat([_padded(heads.v_BSHD, longest, 0) for heads in whole]),
            torch.cat([_padded(_documents_of(heads), longest, PADDING) for heads in whole]),
        )
        self._index = self._indexed()

    def take(self, rows_N: Tensor) -> None:
        """Go on with these rows, any number of times each; beams of one source that change places move nothing."""
        before_B, self._sources_B = self._sources_B, self._sources_B.index_select(0, rows_N)
        if torch.equal(before_B, self._sources_B):
            return
        heads, documents_BS = self._heads, self._heads.documents_BS
        k, v = heads.k_BSHD.index_select(0, rows_N), heads.v_BSHD.index_select(0, rows_N)
        self._heads = SourceHeads(k, v, None if documents_BS is None else documents_BS.index_select(0, rows_N))
        self._index = self._indexed()

    @property
    def num_bytes(self) -> int:
        """What keys and values take."""
        return self._heads.k_BSHD.nbytes + self._heads.v_BSHD.nbytes

    def _answer(self, x_BTE: Tensor, positions_BT: Tensor) -> Tensor:
        documents_BT = None if self._heads.documents_BS is None else torch.zeros_like(positions_BT)
        context = Context(documents_BT=documents_BT, positions_BT=positions_BT)
        return self._layer.answer(x_BTE, self._heads, self._index, context)

    def _indexed(self) -> Any:
        return self._layer.kind.index(self._heads, Context(), False)


def _documents_of(heads: SourceHeads) -> Tensor:
    """Document of each token, [B, S]."""
    documents_BS = heads.documents_BS
    k = heads.k_BSHD
    return torch.zeros(k.shape[:2], dtype=torch.int64, device=k.device) if documents_BS is None else documents_BS


def _padded(x_BS: Tensor, length: int, value: int) -> Tensor:
    """Sources made as long as the longest."""
    return pad(x_BS, (*[0, 0] * (x_BS.dim() - 2), 0, length - x_BS.shape[1]), value=value)
