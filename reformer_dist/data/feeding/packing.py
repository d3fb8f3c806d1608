"""Packing: document lengths in, a plan of which segments of which documents make up each sequence out.

Documents of one length are cut and packed by `plan_sequences`. Documents of several lengths, one for each *track* (a source
and its target, say), are packed whole by `pack_together`. A plan is a pure function of the lengths and the sequence
lengths, so every process computes the same one.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from operator import le, sub

import numpy as np
from numpy.typing import NDArray

Int64s = NDArray[np.int64]
PROBED = 64
"""Sequences that are asked whether they have room for a document in all of its tracks."""
SHARES = 1 << 20
"""Parts of a sequence in which shares of it are counted."""


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
    """Cut documents into segments of `sequence_length` positions and pack what remains of each into shared sequences.

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
    # A bin takes the place of its first document's segment, which is the first that np.unique meets.
    _, firsts, members = np.unique(bins, return_index=True, return_inverse=True)
    leaders = np.concatenate([np.arange(len(full_documents)), len(full_documents) + firsts[members]])
    order = np.lexsort((documents, leaders, offsets[leaders], documents[leaders]))
    starts = np.flatnonzero(np.diff(leaders[order], prepend=-1))
    first_segments = np.append(starts, len(order))
    return SequencePlan(documents[order], offsets[order], lengths[order], first_segments, sequence_length)


@dataclass(frozen=True)
class JointPlan:
    """Sequences of several tracks: sequence i of every track holds the same documents, in the same order.

    Attributes:
        tracks: a plan for each track.
        left_out: int64 [documents left out], those that are longer than a sequence in some track.
    """

    tracks: tuple[SequencePlan, ...]
    left_out: Int64s

    @property
    def num_sequences(self) -> int:
        """Sequences in each track."""
        return self.tracks[0].num_sequences

    def of_documents(self, documents: Int64s) -> "JointPlan":
        """The same plan where document i is called `documents[i]`."""
        return JointPlan(tuple(track.of_documents(documents) for track in self.tracks), documents[self.left_out])


def pack_together(document_lengths: Int64s, sequence_lengths: Sequence[int]) -> JointPlan:
    """Pack whole documents into sequences that are long enough in every track.

    Args:
        document_lengths: int64 [documents, tracks], positions of each document in each track, all positive.
        sequence_lengths: positions in a sequence of each track.

    Returns:
        Plans in which every document lies in exactly one sequence, but for those that fit into none, which are left
        out. Documents are packed by best-fit decreasing, a document's size being its greatest share of a sequence's
        length. Sequences are in order of the first document in them.
    """
    limits = np.array(sequence_lengths, np.int64)
    fits = (document_lengths <= limits).all(axis=1)
    documents = np.flatnonzero(fits)
    bins = _best_fit_of_tracks(document_lengths[documents], limits)
    # A bin is numbered by its first document.
    _, firsts, members = np.unique(bins, return_index=True, return_inverse=True)
    leaders = firsts[members]
    order = np.lexsort((documents, leaders))
    first_segments = np.append(np.flatnonzero(np.diff(leaders[order], prepend=-1)), len(order))
    tracks = tuple(
        SequencePlan(
            documents[order], np.zeros_like(order), document_lengths[documents[order], track], first_segments, n
        )
        for track, n in enumerate(limits.tolist())
    )
    return JointPlan(tracks, np.flatnonzero(~fits))


def _best_fit_of_tracks(sizes: Int64s, capacities: Int64s) -> Int64s:
    """Bin of each item, int64 [items], of sizes [items, tracks] that each fit; see `pack_together`.

    An item goes into one of the PROBED bins with the least sufficient room in the track where the item is greatest, if one
    has room in the other tracks too; else into the fullest of those that surely have, since the share of room that is left
    in their tightest track is no less than the item's greatest share; else into a new one.
    """
    bins = np.zeros(len(sizes), np.int64)
    full = tuple(capacities.tolist())
    rooms: list[tuple[int, ...]] = []  # of each bin, the space left in each track
    shelves = [_Shelf() for _ in range(len(full) + 1)]  # the bins by that, and by the share left in the tightest track
    shares = -(-sizes * SHARES // capacities)
    greatest, needed = shares.argmax(axis=1), shares.max(axis=1)
    order = np.argsort(-needed, kind="stable")
    columns = (column[order].tolist() for column in (greatest, needed, sizes))
    for item, track, share, size in zip(order.tolist(), *columns, strict=True):
        probed = islice(shelves[track].from_space(size[track]), PROBED)
        chosen = next((each for each in probed if all(map(le, size, rooms[each]))), None)
        if chosen is None:
            chosen = next(shelves[-1].from_space(share), None)
        if chosen is None:
            chosen = len(rooms)
            rooms.append(full)
        else:
            for shelf, space in zip(shelves, _places(rooms[chosen], full), strict=True):
                shelf.remove(space, chosen)
        rooms[chosen] = tuple(map(sub, rooms[chosen], size))
        if min(rooms[chosen]) > 0:
            for shelf, space in zip(shelves, _places(rooms[chosen], full), strict=True):
                shelf.add(space, chosen)
        bins[item] = chosen
    return bins


def _places(room: tuple[int, ...], capacities: tuple[int, ...]) -> tuple[int, ...]:
    """Where a bin lies on each shelf: the space left in each track, and the share left in the tightest one."""
    return (*room, min(space * SHARES // capacity for space, capacity in zip(room, capacities, strict=True)))


class _Shelf:
    """Bins by the space left in them."""

    def __init__(self) -> None:
        self._bins: dict[int, dict[int, None]] = {}
        self._spaces: list[int] = []  # the keys, sorted

    def add(self, space: int, number: int) -> None:
        """Put a bin where it belongs."""
        if space not in self._bins:
            insort(self._spaces, space)
            self._bins[space] = {}
        self._bins[space][number] = None

    def remove(self, space: int, number: int) -> None:
        """Take a bin away."""
        del self._bins[space][number]
        if not self._bins[space]:
            del self._bins[space], self._spaces[bisect_left(self._spaces, space)]

    def from_space(self, least: int) -> Iterator[int]:
        """Bins with at least that much space, those with the least first, older ones before newer."""
        for place in range(bisect_left(self._spaces, least), len(self._spaces)):
            yield from self._bins[self._spaces[place]]


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
