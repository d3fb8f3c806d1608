"""Exchanges between the workers of a group, with their traffic counted.

In and out: tensors. Differentiable ones have the reverse exchange as their gradient. Every worker of the group makes the
same calls in the same order; a worker that is gone ends them with an error after the group's timeout.

Legend: P workers of the group.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass
class Traffic:
    """What a worker has sent to others, and how long it has waited for exchanges to end (with NCCL, only to be queued)."""

    bytes_sent: int = 0
    seconds_waiting: float = 0.0


class Pending:
    """An exchange under way."""

    def __init__(self, result: Tensor, sent: Tensor, work: dist.Work, traffic: Traffic) -> None:
        self._result, self._work, self._traffic = result, work, traffic
        self._sent: Tensor | None = sent  # kept only until it has gone

    def wait(self) -> Tensor:
        """The result, when it is there."""
        start = time.perf_counter()
        self._work.wait()
        self._sent = None
        self._traffic.seconds_waiting += time.perf_counter() - start
        return self._result


def start_all_to_all(
    x: Tensor, send: Sequence[int], receive: Sequence[int], group: dist.ProcessGroup, traffic: Traffic
) -> Pending:
    """Send the first send[0] rows of x to worker 0, the next send[1] to worker 1, ...; get receive[p] rows from worker p."""
    x = x.contiguous()
    result = x.new_empty(sum(receive), *x.shape[1:])
    work = dist.all_to_all_single(result, x, list(receive), list(send), group=group, async_op=True)
    mine = send[dist.get_rank(group)]
    traffic.bytes_sent += (x.shape[0] - mine) * x[:1].nbytes
    return Pending(result, x, work, traffic)


def all_to_all(x: Tensor, group: dist.ProcessGroup, traffic: Traffic) -> Tensor:
    """Send x[p] to worker p; the result's [p] is what worker p sent. [P, ...] -> [P, ...], differentiable."""
    return _AllToAll.apply(x, group, traffic)


def all_gather(x: Tensor, group: dist.ProcessGroup, traffic: Traffic) -> Tensor:
    """Every worker's tensor, [P, ...]; no gradient."""
    x = x.contiguous()
    gathered = x.new_empty(dist.get_world_size(group), *x.shape)
    work = dist.all_gather(list(gathered.unbind()), x, group=group, async_op=True)
    traffic.bytes_sent += x.nbytes * (gathered.shape[0] - 1)
    return Pending(gathered, x, work, traffic).wait()


class _AllToAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup, traffic: Traffic) -> Tensor:
        ctx.group, ctx.traffic = group, traffic
        ones = [1] * x.shape[0]
        return start_all_to_all(x, ones, ones, group, traffic).wait()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _AllToAll.apply(grad, ctx.group, ctx.traffic), None, None
