"""Memory that one worker writes and the other workers of its machine read.

In: how many bytes are wanted, and which of them the others have read. Out: room in a segment, and tensors that lie there.
A segment is an anonymous file of the kernel's: it has no name, so that it goes with the last process that holds it however
that process ends, and no limit but the memory of the machine or container (not the size of /dev/shm).
"""

import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

ALIGNMENT = 64
"""Bytes to a multiple of which places begin: a line of the processor's cache."""


class Segment:
    """A worker's view of a segment, its own or another's."""

    def __init__(self, file_descriptor: int) -> None:
        """Take over a file's descriptor; `open_segment` makes one."""
        self._file = os.fdopen(file_descriptor, "r+b", buffering=0)
        self._memory: mmap.mmap | None = None
        self.size = 0
        """Bytes that can be reached."""

    def fileno(self) -> int:
        """The file's descriptor, to be sent to other workers."""
        return self._file.fileno()

    def reach(self, size: int) -> None:
        """See at least so many bytes, which the segment must have."""
        if size > self.size:
            self._memory = mmap.mmap(self.fileno(), size)
            self.size = size

    def grow(self, size: int) -> None:
        """Make the segment larger. Only pages that are written to take memory."""
        os.ftruncate(self.fileno(), size)
        self.reach(size)

    def tensor(self, start: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """What lies at byte `start`, in place; not for a shape without elements."""
        assert self._memory is not None
        return torch.frombuffer(self._memory, dtype=dtype, count=prod(shape), offset=start).view(*shape)


def open_segment() -> Segment:
    """A new and empty segment.

    Raises:
        OSError: the system has none.
    """
    if not hasattr(os, "memfd_create"):
        raise OSError("the system has no anonymous files")
    return Segment(os.memfd_create("reformer_dist"))


@dataclass
class Place:
    """Bytes that an exchange has in its sender's segment."""

    start: int
    end: int
    read_before: int | None = None
    """Number of the first exchange that no worker starts before it has read this one; None until it is known."""


class Places:
    """Who has which bytes of a segment. What is under way is little, so that looking through all of it costs nothing."""

    def __init__(self) -> None:
        self._taken: list[Place] = []

    def take(self, num_bytes: int, all_started: int) -> Place:
        """The first gap that is wide enough, of what is free when all workers have started `all_started` exchanges."""
        self._taken = [place for place in self._taken if place.read_before is None or place.read_before >= all_started]
        start = 0
        for place in self._taken:  # in the order of their bytes
            if place.start - start >= num_bytes:
                break
            start = padded(place.end)
        taken = Place(start, start + num_bytes)
        if num_bytes:  # places in the list must follow one another
            self._taken = sorted([*self._taken, taken], key=lambda place: place.start)
        return taken


def padded(num_bytes: int) -> int:
    """The next multiple of ALIGNMENT."""
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT
