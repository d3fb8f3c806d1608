"""Exchanges between the workers of a group, with their traffic counted.

In and out: tensors. Differentiable ones have the reverse exchange as their gradient. Every worker of the group makes the
same calls, and waits for what they start, in the same order; a worker that is gone ends them with an error after the
group's timeout. Workers of one machine exchange through memory (`mailbox.py`), others by their group's backend.

Legend: P workers of the group.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from reformer_dist.parallel.mailbox import Letter, Mailbox, Use


@dataclass
class Traffic:
    """What a worker has sent to others, and how long it has waited for exchanges to end (with NCCL, only to be queued)."""

    bytes_sent: int = 0
    seconds_waiting: float = 0.0


@dataclass(frozen=True)
class Peers:
    """The workers of a group, and how this one reaches them."""

    group: dist.ProcessGroup
    traffic: Traffic
    """Where to count."""
    mailbox: Mailbox | None = None
    """For tensors on the CPU, if the workers share a machine; the others travel as the group's backend sends them."""

    @property
    def num_workers(self) -> int:
        """Workers P of the group."""
        return dist.get_world_size(self.group)

    @property
    def rank(self) -> int:
        """This worker's index in the group."""
        return dist.get_rank(self.group)


class Pending(ABC):
    """An exchange under way. All workers end their exchanges in the same order."""

    @abstractmethod
    def wait(self) -> Tensor:
        """The rows that came, when they are there, by worker."""

    @abstractmethod
    def read(self, use: Use) -> None:
        """Hand each worker's rows to `use` in its turn, when all are there; they may change after it."""


class _PendingWork(Pending):
    """By the group's backend."""

    def __init__(self, result: Tensor, receive: Sequence[int], sent: Tensor, work: dist.Work, traffic: Traffic) -> None:
        self._result, self._receive, self._work, self._traffic = result, receive, work, traffic
        self._sent: Tensor | None = sent  # kept only until it has gone

    def wait(self) -> Tensor:
        start = time.perf_counter()
        self._work.wait()
        self._sent = None
        self._traffic.seconds_waiting += time.perf_counter() - start
        return self._result

    def read(self, use: Use) -> None:
        first = 0
        for rows in self.wait().split(list(self._receive)):
            use(first, rows)
            first += len(rows)


class _PendingLetter(Pending):
    """Through shared memory."""

    def __init__(self, mailbox: Mailbox, letter: Letter, receive: Sequence[int], traffic: Traffic) -> None:
        self._mailbox, self._letter, self._receive, self._traffic = mailbox, letter, receive, traffic

    def wait(self) -> Tensor:
        own = self._letter.own
        result = own.new_empty(sum(self._receive), *own.shape[1:])
        self.read(lambda first, rows: result[first : first + len(rows)].copy_(rows))
        return result

    def read(self, use: Use) -> None:
        start = time.perf_counter()
        self._mailbox.wait(self._letter.exchange)
        self._traffic.seconds_waiting += time.perf_counter() - start
        self._mailbox.read(self._letter, self._receive, use)


def start_all_to_all(x: Tensor, send: Sequence[int], receive: Sequence[int], peers: Peers) -> Pending:
    """Send the first send[0] rows of x to worker 0, the next send[1] to worker 1, ...; get receive[p] rows from worker p.

    Rows of x may change when what came has been waited for.
    """
    x = x.detach()
    peers.traffic.bytes_sent += (x.shape[0] - send[peers.rank]) * x[:1].nbytes
    if peers.mailbox is not None and x.device.type == "cpu":
        letter = peers.mailbox.post(x.split(list(send)))
        return _PendingLetter(peers.mailbox, letter, receive, peers.traffic)
    x = x.contiguous()
    result = x.new_empty(sum(receive), *x.shape[1:])
    work = dist.all_to_all_single(result, x, list(receive), list(send), group=peers.group, async_op=True)
    return _PendingWork(result, receive, x, work, peers.traffic)


def all_to_all(x: Tensor, peers: Peers) -> Tensor:
    """Send x[p] to worker p; the result's [p] is what worker p sent. [P, ...] -> [P, ...], differentiable."""
    return _AllToAll.apply(x, peers)


def all_gather(x: Tensor, peers: Peers) -> Tensor:
    """Every worker's tensor, [P, ...]; no gradient."""
    x = x.contiguous()
    gathered = x.new_empty(peers.num_workers, *x.shape)
    work = dist.all_gather(list(gathered.unbind()), x, group=peers.group, async_op=True)
    peers.traffic.bytes_sent += x.nbytes * (gathered.shape[0] - 1)
    return _PendingWork(gathered, [1] * peers.num_workers, x, work, peers.traffic).wait()


class _AllToAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, peers: Peers) -> Tensor:
        ctx.peers = peers
        ones = [1] * x.shape[0]
        return start_all_to_all(x, ones, ones, peers).wait()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _AllToAll.apply(grad, ctx.peers), None
