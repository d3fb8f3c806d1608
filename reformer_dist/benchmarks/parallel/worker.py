"""Workers that share a sequence, each a process of this machine that keeps its model.

In: a configuration of so many workers. Out: what each worker measured of a training step on its shard of random tokens.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import torch
import torch.distributed as dist

from reformer_dist.benchmarks.parallel.processes import Processes
from reformer_dist.benchmarks.process_memory import restart_peak, status_mib
from reformer_dist.config import Config
from reformer_dist.model.reformer import ReformerLM
from reformer_dist.parallel.parallelize import parallelize
from reformer_dist.parallel.topology import make_topology

TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True)
class Step:
    """One worker's part of a training step: forward and backward pass, and the sum of the gradients over the workers."""

    seconds: float
    """From when all workers are ready until this one has all gradients."""
    cpu_seconds: float
    """Of the processor, by all threads of the process; unlike `seconds` not changed by what else the machine does."""
    waited: float
    """Of `seconds`, seconds spent waiting for attention's exchanges."""
    bytes_sent: int
    """By attention's exchanges."""
    peak_mib: float
    """Largest size of the process during the step above its size before."""


class Worker:
    """One of the configuration's workers: its model, spread over all of them."""

    def __init__(self, config: Config) -> None:
        """Make the model; all workers do it together."""
        self._config, self._topology = config, make_topology(config)
        self._model = ReformerLM(config.model)
        self._traffic = parallelize(self._model, self._topology)

    def step(self, length: int) -> Step:
        """Do a step on this worker's shard of one sequence of `length` tokens, and measure it."""
        part = length // self._config.parallel.sequence_shards
        first = self._topology.shard * part
        generator = torch.Generator().manual_seed(self._topology.shard)
        tokens, labels = torch.randint(self._config.model.vocab_size, (2, 1, part), generator=generator)
        self._model.zero_grad()
        dist.barrier()
        sent, waited, before = self._traffic.bytes_sent, self._traffic.seconds_waiting, restart_peak()
        start, cpu_start = time.perf_counter(), time.process_time()
        loss_sum, _ = self._model.loss(tokens, labels, first_position=first)
        (loss_sum / length).backward()
        gradients = torch.cat([p.grad.flatten() for p in self._model.parameters() if p.grad is not None])
        dist.all_reduce(gradients)
        return Step(
            seconds=time.perf_counter() - start,
            cpu_seconds=time.process_time() - cpu_start,
            waited=self._traffic.seconds_waiting - waited,
            bytes_sent=self._traffic.bytes_sent - sent,
            peak_mib=status_mib("VmHWM") - before,
        )


def start_workers(config: Config) -> Processes:
    """The configuration's workers on this machine; called with a length, each does a `Step`."""
    return Processes(config.train.max_workers, partial(_start, config), TIMEOUT)


def _start(config: Config) -> Callable[[int], Step]:
    return Worker(config).step
