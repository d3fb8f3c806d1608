"""What is measured of a training's steps: loss, speed, traffic, waiting for data, memory.

In: results of steps, which stay on the device until one is read. Out: metrics over all workers.
"""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from reformer_dist.parallel.collectives import Traffic
from reformer_dist.training.engine.engine import Engine


def in_split(split: str, metrics: dict[str, float]) -> dict[str, float]:
    """An objective's metrics under their names in MLflow."""
    return {f"{split}/{name}": value for name, value in metrics.items()}


class Meter:
    """Loss, speed and traffic, read from the device only when a step is logged."""

    def __init__(self, device: torch.device, traffic: Traffic) -> None:
        self._traffic = traffic
        self._num_read = torch.zeros((), dtype=torch.float64, device=device)
        self._num_steps = 0
        self._starved = 0.0
        self._since = self._now()

    def count(self, result: torch.Tensor) -> None:
        """Take in what `Engine.train_step` returned."""
        self._num_read += result[2]
        self._num_steps += 1

    def read(self, result: torch.Tensor, engine: Engine) -> dict[str, float]:
        """Metrics of the last step, whose result is given; speed and traffic are means since the last reading."""
        _, sent, waited = (now - since for now, since in zip(self._now(), self._since, strict=True))
        sums = torch.stack([result[0], *result.new_tensor([sent, waited, self._starved])])
        dist.all_reduce(sums)
        values = torch.cat([sums, result[1:2], self._num_read[None]]).tolist()
        loss_sum, sent, waited, starved, count, num_read = values
        loss = loss_sum / max(1.0, count)
        seconds = time.perf_counter() - self._since[0]
        each = self._num_steps * dist.get_world_size()
        self._num_read.zero_()
        self._num_steps = 0
        self._starved = 0.0
        self._since = self._now()
        return in_split("train", engine.objective.loss_metrics(loss)) | {
            "train/tokens_per_second": num_read / seconds,
            "train/grad_norm": float(engine.grad_norm()),
            "data/wait_share": starved / (seconds * dist.get_world_size()),
            "parallel/bytes_sent": sent / each,
            "parallel/wait_seconds": waited / each,
        }

    @contextmanager
    def fed(self) -> Iterator[None]:
        """A block that waits for data; the workers' mean share of it in the time is a metric."""
        start = time.perf_counter()
        yield
        self._starved += time.perf_counter() - start

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A block whose time and traffic do not count."""
        before = self._now()
        yield
        self._since = [since + now - then for since, now, then in zip(self._since, self._now(), before, strict=True)]

    def _now(self) -> list[float]:
        """Seconds, bytes sent and seconds waited up to now."""
        return [time.perf_counter(), self._traffic.bytes_sent, self._traffic.seconds_waiting]


def peak_memory(device: torch.device) -> dict[str, float]:
    """Peak memory of each worker's process in MiB, and of its GPU."""
    peaks = {"": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    if device.type == "cuda":
        peaks["_gpu"] = torch.cuda.max_memory_allocated(device) / 2**20
    all_peaks = [torch.empty(len(peaks), dtype=torch.float64, device=device) for _ in range(dist.get_world_size())]
    dist.all_gather(all_peaks, torch.tensor(list(peaks.values()), dtype=torch.float64, device=device))
    return {
        f"memory/worker_{rank}{kind}_mib": value
        for rank, worker in enumerate(all_peaks)
        for kind, value in zip(peaks, worker.tolist(), strict=True)
    }
