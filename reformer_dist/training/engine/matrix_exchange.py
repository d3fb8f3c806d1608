"""Whole matrices from the stretches that workers hold, and results back to the stretches.

In: what every worker holds of each matrix. Out: an owner for each matrix, and two exchanges, each one all-to-all: every
matrix whole at its owner, and every worker's stretches of what the owners have made of it.

A worker holds a stretch of a matrix, or nothing (ZeRO 1 to 3), or all of it, as every other worker does (ZeRO 0). An owner
that holds all of a matrix is sent nothing of it in the first exchange; in the second every worker is sent what it holds.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from reformer_dist.parallel.collectives import Peers, Traffic, start_all_to_all

Stretch = tuple[int, int]
"""First element of a flattened matrix that a worker holds, and how many."""
MORE_THAN_MEAN = 1.1
"""Cost that a worker may have, as a multiple of the mean, through matrices of which it holds most."""


class MatrixExchange:
    """The two exchanges. Every method but `sends` is collective; without torch.distributed there is one worker.

    Attributes:
        traffic: what this worker has sent to others.
    """

    def __init__(self, shapes: Mapping[str, torch.Size], held: Mapping[str, Stretch], like: Tensor) -> None:
        """Choose the owners.

        Args:
            shapes: of all matrices, by name, in the same order on every worker.
            held: this worker's stretches by name.
            like: a tensor of the dtype in which matrices travel, on the device between which they do.
        """
        self.traffic = Traffic()
        self._shapes = shapes
        self._nothing = like.new_empty(0)
        self._rank, self._held = _everyones(held)
        self._owners = choose_owners(shapes, self._held)

    def sends(self, name: str) -> bool:
        """Whether the owner of a matrix needs what this worker holds of it."""
        return self._gives(self._rank, name)

    def to_owners(self, stretches: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Bring matrices together.

        Args:
            stretches: [size] of each matrix that this worker `sends`, on any device.

        Returns:
            The matrices that this worker owns, [rows, columns].
        """
        workers = range(len(self._held))
        mine = self._owned_by(self._rank)
        outgoing = [[stretches[name] for name in self._owned_by(owner) if self.sends(name)] for owner in workers]
        names = [[name for name in mine if self._gives(worker, name)] for worker in workers]
        arrived = self._swap(outgoing, [[self._held[worker][name][1] for name in names[worker]] for worker in workers])
        whole = {name: self._nothing.new_empty(self._shapes[name]) for name in mine}
        for worker in workers:
            for name, stretch in zip(names[worker], arrived[worker], strict=True):
                _stretch(whole[name], self._held[worker][name]).copy_(stretch)
        return whole

    def from_owners(self, whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Take results back to where the stretches are.

        Args:
            whole: of each matrix that this worker owns, [rows, columns].

        Returns:
            [size] for each stretch that this worker holds, by name.
        """
        workers = range(len(self._held))
        outgoing = [[_stretch(whole[name], held[name]) for name in whole if name in held] for held in self._held]
        own = self._held[self._rank]
        names = [[name for name in self._owned_by(owner) if name in own] for owner in workers]
        arrived = self._swap(outgoing, [[own[name][1] for name in names[owner]] for owner in workers])
        return {name: part for owner in workers for name, part in zip(names[owner], arrived[owner], strict=True)}

    def _owned_by(self, worker: int) -> list[str]:
        return [name for name, owner in self._owners.items() if owner == worker]

    def _gives(self, worker: int, name: str) -> bool:
        """Whether a worker has a stretch that the owner needs: its own, and the others' unless its own is everything."""
        owner, size = self._owners[name], self._shapes[name].numel()
        owner_has_all = self._held[owner].get(name) == (0, size)
        return name in self._held[worker] and (worker == owner or not owner_has_all)

    def _swap(self, outgoing: Sequence[Sequence[Tensor]], sizes: Sequence[Sequence[int]]) -> list[tuple[Tensor, ...]]:
        """Send each worker its tensors. Returns those that each has sent here, which have the given sizes."""
        parts = [part.to(self._nothing.device) for parts in outgoing for part in parts]
        flat = torch.cat([self._nothing, *parts])
        if dist.group.WORLD is not None:
            send = [sum(part.numel() for part in parts) for parts in outgoing]
            receive = [sum(each) for each in sizes]
            flat = start_all_to_all(flat, send, receive, Peers(dist.group.WORLD, self.traffic)).wait()
        arrived = iter(flat.split([size for each in sizes for size in each]))
        return [tuple(next(arrived) for _ in each) for each in sizes]


def choose_owners(shapes: Mapping[str, torch.Size], held: Sequence[Mapping[str, Stretch]]) -> dict[str, int]:
    """An owner for each matrix, the same on every worker: costs are balanced, and whoever holds most comes first.

    The dearest matrices are given first. A worker that holds more of a matrix than others owns it, unless that takes it
    beyond MORE_THAN_MEAN of the mean cost; then, or among equals, it is the worker with the least cost so far.

    Args:
        shapes: of all matrices, by name.
        held: every worker's stretches by name.

    Returns:
        The owner's rank by name, in the order of `shapes`.
    """
    costs = {name: _cost(shape) for name, shape in shapes.items()}
    limit = MORE_THAN_MEAN * sum(costs.values()) / len(held)
    loads = [0] * len(held)
    owners = {}
    for name in sorted(costs, key=lambda name: -costs[name]):
        most = max(stretches.get(name, (0, 0))[1] for stretches in held)
        holders = [rank for rank, stretches in enumerate(held) if stretches.get(name, (0, 0))[1] == most]
        owner = _least_loaded(holders, loads)
        if loads[owner] + costs[name] > limit:
            owner = _least_loaded(range(len(held)), loads)
        owners[name] = owner
        loads[owner] += costs[name]
    return {name: owners[name] for name in shapes}


def _least_loaded(ranks: Iterable[int], loads: Sequence[int]) -> int:
    return min(ranks, key=lambda rank: loads[rank])


def _cost(shape: torch.Size) -> int:
    """Multiplications of an iteration that makes a matrix orthogonal."""
    short, long = sorted(shape)
    return short * short * (2 * long + short)


def _stretch(matrix: Tensor, stretch: Stretch) -> Tensor:
    """A part of a flattened matrix, as a view where the matrix is contiguous."""
    start, size = stretch
    return matrix.reshape(-1)[start : start + size]


def _everyones(held: Mapping[str, Stretch]) -> tuple[int, list[Mapping[str, Stretch]]]:
    """This worker's rank, and the stretches of all."""
    if not dist.is_initialized():
        return 0, [held]
    everyones: list[Mapping[str, Stretch]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(everyones, dict(held))
    return dist.get_rank(), everyones
