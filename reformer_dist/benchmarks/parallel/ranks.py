"""Workers on this machine for benchmarks: processes with gloo and one CPU thread each, which keep what they made.

In: a configuration of so many workers. Out: what each worker measured of a training step on its shard of random tokens.
"""

import tempfile
import time
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

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
    peak_bytes: int
    """Largest size of the process during the step above its size before."""


class Ranks:
    """Workers of one configuration, to be closed; a context manager."""

    def __init__(self, config: Config) -> None:
        """Start the workers, each with its model."""
        context = mp.get_context("spawn")
        self._folder = tempfile.TemporaryDirectory()
        store = f"file://{Path(self._folder.name) / 'store'}"
        self._processes, self._connections = [], []
        for rank in range(config.train.max_workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, config, store, theirs), daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)
            self._connections.append(ours)

    def step(self, length: int) -> list[Step]:
        """Let all workers do a step on one sequence of `length` tokens; what each measured, by rank.

        Raises:
            EOFError: a worker died; its own traceback is on the terminal.

        """
        self.begin(length)
        return self.end()

    def begin(self, length: int) -> None:
        """Let all workers begin a step; `end` waits for it."""
        for connection in self._connections:
            connection.send(length)

    def end(self) -> list[Step]:
        """What each worker measured of the step that was begun, by rank."""
        return [connection.recv() for connection in self._connections]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.kill()
            process.join()
        self._folder.cleanup()


def _serve(rank: int, config: Config, store: str, connection: Connection) -> None:
    """A worker's life: a step for every length that comes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store, TIMEOUT, config.train.max_workers, rank)
    topology = make_topology(config)
    model = ReformerLM(config.model)
    traffic = parallelize(model, topology)
    while True:
        try:
            length = connection.recv()
        except EOFError:
            return
        part = length // config.parallel.sequence_shards
        generator = torch.Generator().manual_seed(topology.shard)
        tokens, labels = torch.randint(config.model.vocab_size, (2, 1, part), generator=generator)
        model.zero_grad()
        dist.barrier()
        sent, waited, before = traffic.bytes_sent, traffic.seconds_waiting, _restart_peak()
        start, cpu_start = time.perf_counter(), time.process_time()
        loss_sum, _ = model.loss(tokens, labels, first_position=topology.shard * part)
        (loss_sum / length).backward()
        gradients = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        dist.all_reduce(gradients)
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
        peak = _status_bytes("VmHWM") - before
        connection.send(Step(seconds, cpu_seconds, traffic.seconds_waiting - waited, traffic.bytes_sent - sent, peak))


def _restart_peak() -> int:
    """Let Linux forget the largest size of this process so far; its size now, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status_bytes("VmRSS")


def _status_bytes(name: str) -> int:
    """A size from /proc/self/status; a child's ru_maxrss, for one, starts at its parent's peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1]) * 1024
