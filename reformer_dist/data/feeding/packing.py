"""Packing: document lengths in, a plan of which pieces of which documents make up each sequence out.

The plan is a pure function of the lengths and the sequence length, so every process computes the same one.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Int64s = NDArray[np.int64]


@dataclass(frozen=True)
class SequencePlan:
    """Segments of every sequence; segments `first_segments[i]` to `first_segments[i + 1]` make up sequence i.

    Attributes:
        documents: int64 [segments], index of the document in its split.
        offsets: int64 [segments], first position taken of that document.
        lengths: int64 [segments], positions taken.
        first_segments: int64 [num_sequences + 1].
        sequence_length: positions in a sequence; what its segments leave is padding.
    """

    documents: Int64s
    offsets: Int64s
    lengths: Int64s
    first_segments: Int64s
    sequence_length: int

    @property
    def num_sequences(self) -> int:
        """Sequences in the plan."""
        return len(self.first_segments) - 1

    @property
    def num_positions(self) -> int:
        """Positions that hold a token; each is in exactly one segment."""
        return int(self.lengths.sum())

    @property
    def padding_share(self) -> float:
        """Share of all positions that are padding."""
        return 1.0 - self.num_positions / max(1, self.num_sequences * self.sequence_length)

    def run_lengths(self) -> Int64s:
        """Sequences that follow each other within one document, int64 [runs], in order; a packed one is a run of one."""
        firsts, alone = self.first_segments[:-1], np.diff(self.first_segments) == 1
        continues = alone[1:] & alone[:-1] & (np.diff(self.documents[firsts]) == 0)
        return np.diff(np.flatnonzero(np.append(np.insert(~continues, 0, True), True)))

    def segments(self, sequence: int) -> list[tuple[int, int, int]]:
        """(document, offset, length) of one sequence's segments, in the order in which they fill it."""
        part = slice(self.first_segments[sequence], self.first_segments[sequence + 1])
        columns = (self.documents[part], self.offsets[part], self.lengths[part])
        return [(int(d), int(o), int(n)) for d, o, n in zip(*columns, strict=True)]

    def of_documents(self, documents: Int64s) -> "SequencePlan":
        """The same plan where document i is called `documents[i]`."""
        return replace(self, documents=documents[self.documents])


def join_plans(plans: Sequence[SequencePlan]) -> SequencePlan:
    """One plan with the sequences of all, those of the first plan first."""
    if len(plans) == 1:
        return plans[0]
    num_before = np.cumsum([0, *(len(plan.documents) for plan in plans)])
    firsts = [plan.first_segments[:-1] + before for plan, before in zip(plans, num_before[:-1], strict=True)]
    return SequencePlan(
        documents=np.concatenate([plan.documents for plan in plans]),
        offsets=np.concatenate([plan.offsets for plan in plans]),
        lengths=np.concatenate([plan.lengths for plan in plans]),
        first_segments=np.concatenate([*firsts, num_before[-1:]]),
        sequence_length=plans[0].sequence_length,
    )


def plan_sequences(document_lengths: Int64s, sequence_length: int) -> SequencePlan:
    """Cut documents into pieces of `sequence_length` positions and pack what remains of each into shared sequences.

    Args:
        document_lengths: int64 [documents], positions of each document (its tokens and one boundary), all positive.
        sequence_length: positions in a sequence.

    Returns:
        A plan in which every position of every document lies in exactly one segment. Remainders are packed by best-fit
        decreasing, never cut. Sequences are in order of the first document in them.
    """
    num_full = document_lengths // sequence_length
    remainders = document_lengths % sequence_length
    full_documents = np.repeat(np.arange(len(document_lengths)), num_full)
    full_offsets = (np.arange(num_full.sum()) - np.repeat(np.cumsum(num_full) - num_full, num_full)) * sequence_length
    left_over = np.flatnonzero(remainders)
    bins = _best_fit_decreasing(remainders[left_over], sequence_length)

    documents = np.concatenate([full_documents, left_over])
    offsets = np.concatenate([full_offsets, num_full[left_over] * sequence_length])
    lengths = np.concatenate([np.full(len(full_documents), sequence_length), remainders[left_over]])
    # A bin takes the place of its first document's piece, which is the first that np.unique meets.
    _, firsts, members = np.unique(bins, return_index=True, return_inverse=True)
    leaders = np.concatenate([np.arange(len(full_documents)), len(full_documents) + firsts[members]])
    order = np.lexsort((documents, leaders, offsets[leaders], documents[leaders]))
    starts = np.flatnonzero(np.diff(leaders[order], prepend=-1))
    first_segments = np.append(starts, len(order))
    return SequencePlan(documents[order], offsets[order], lengths[order], first_segments, sequence_length)


def _best_fit_decreasing(sizes: Int64s, capacity: int) -> Int64s:
    """Bin of each item, int64: largest items first, each into the fullest bin that still has room for it."""
    bins = np.zeros(len(sizes), np.int64)
    room: dict[int, list[int]] = {}  # bins by the space left in them
    spaces: list[int] = []  # the keys of `room`, sorted
    num_bins = 0
    order = np.argsort(-sizes, kind="stable")
    for item, size in zip(order.tolist(), sizes[order].tolist(), strict=True):
        place = bisect_left(spaces, size)
        if place == len(spaces):
            space, chosen = capacity, num_bins
            num_bins += 1
        else:
            space = spaces[place]
            chosen = room[space].pop()
            if not room[space]:
                del room[space], spaces[place]
        bins[item] = chosen
        if left := space - size:
            if left not in room:
                insort(spaces, left)
                room[left] = []
            room[left].append(chosen)
    return bins
