"""Sums of scores: of all positions, by how much came before them, and by source.

In: an objective's scores of a batch. Out: sums that can be added, whatever worker made them.

Legend: B sequences, T positions, k an objective's scores.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

FIRST_END = 16
"""End of the first bucket of contexts; each further one ends at twice the number."""


@dataclass(frozen=True)
class Tally:
    """Sums over some sequences.

    Attributes:
        by_context: float64 [buckets, k], by the number of tokens of its document before a position: 0 to 15, 16 to 31, ...
        by_source: float64 [sources, k].
        num_bytes: bytes of what was scored.
    """

    by_context: Tensor
    by_source: Tensor
    num_bytes: int

    def __add__(self, other: Self) -> Self:
        return type(self)(
            self.by_context + other.by_context, self.by_source + other.by_source, self.num_bytes + other.num_bytes
        )


def tally(
    scores_BTk: Tensor, documents_BT: Tensor, sources_BT: Tensor, length: int, num_sources: int, num_bytes: int
) -> Tally:
    """Sums of a batch.

    Args:
        scores_BTk: float64, zero where nothing is scored.
        documents_BT: as of `Batch`.
        sources_BT: int64, index of the source of each position; any where nothing is scored.
        length: positions of a sequence, which decide how many buckets there are.
        num_sources: sources of the corpus.
        num_bytes: bytes of what is scored.
    """
    k = scores_BTk.shape[-1]
    ends = torch.tensor(bucket_ends(length), device=documents_BT.device)
    buckets_BT = torch.bucketize(context(documents_BT), ends, right=True)
    by_context, by_source = scores_BTk.new_zeros(len(ends), k), scores_BTk.new_zeros(num_sources, k)
    by_context.index_add_(0, buckets_BT.flatten(), scores_BTk.flatten(0, 1))
    by_source.index_add_(0, sources_BT.flatten(), scores_BTk.flatten(0, 1))
    return Tally(by_context.cpu(), by_source.cpu(), num_bytes)


def context(documents_BT: Tensor) -> Tensor:
    """Positions of the same document before each one, int64 [B, T]: what a causal model may see of it."""
    index_T = torch.arange(documents_BT.shape[1], device=documents_BT.device)
    is_first_BT = torch.ones_like(documents_BT, dtype=torch.bool)
    is_first_BT[:, 1:] = documents_BT[:, 1:] != documents_BT[:, :-1]
    return index_T - torch.where(is_first_BT, index_T, 0).cummax(dim=1).values


def bucket_ends(length: int) -> list[int]:
    """Where each bucket of contexts ends: 16, 32, 64 and so on, and at last the sequence's length."""
    ends = [FIRST_END]
    while ends[-1] < length:
        ends.append(2 * ends[-1])
    return [*ends[:-1], length]
