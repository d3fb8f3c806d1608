"""The training loop: batches in, optimizer steps, metrics and checkpoints out, in one worker.

It knows the engine and nothing of what started it; everything it does, all workers do together.
"""

import math
import resource
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist

from reformer_dist.config import Config
from reformer_dist.data.feeding.batch import Batch
from reformer_dist.model.attention import hash_health
from reformer_dist.parallel.collectives import Traffic
from reformer_dist.training.engine import Engine, learning_rate
from reformer_dist.training.watch import Watch, Wish

Report = Callable[[int, dict[str, float]], object]
"""Takes a number of steps done and metrics by name."""


def train(
    config: Config,
    engine: Engine,
    traffic: Traffic,
    batches: Iterator[Sequence[Batch]],
    validation: Callable[[], Iterable[Batch]],
    report: Report,
    save: Callable[[int, float | None], None],
    start_step: int = 0,
    asked: Callable[[], Wish] = lambda: Wish.NOTHING,
    noticed: Callable[[], bool] = lambda: False,
) -> None:
    """Train from `start_step` to `config.train.steps`, or until one is asked to stop, with a checkpoint at the end.

    Args:
        config: lengths and intervals.
        engine: holds the model, in the state that belongs to `start_step`.
        traffic: counts what this worker's attention layers exchange.
        batches: this worker's micro-batches of each step from `start_step` on.
        validation: this worker's part of the held-out batches, the same number on every worker.
        report: called on every worker, with values over all of them.
        save: writes a checkpoint after so many steps, given their validation loss if there is one.
        start_step: steps done before.
        asked: see `Watch`; looked at where a step is logged.
        noticed: the same.

    Raises:
        Diverged: on all workers, at the next logged step or checkpoint after a loss or gradient was not finite.
    """
    settings = config.train
    watch = Watch(engine.device, asked, noticed)
    meter = Meter(engine.device, traffic)
    for step in range(start_step, settings.steps):
        with meter.fed():
            micro_batches = next(batches)
        result = engine.train_step(micro_batches, step)
        meter.count(result)
        watch.see(step, result[0], engine.grad_norm())
        done, last = step + 1, step + 1 == settings.steps
        logged, saved = (last or done % every == 0 for every in (settings.log_every, settings.checkpoint_every))
        wish = watch.read() if logged or saved else Wish.NOTHING
        if logged:
            metrics = meter.read(result, engine)
            metrics["train/learning_rate"] = learning_rate(config.optimizer, step, settings.steps)
            report(done, metrics)
        with meter.paused():
            held_out: dict[str, float] = {}
            if last or done % settings.validate_every == 0:
                held_out = validate(engine, validation())
                report(done, held_out | memory(engine.device))
            if saved or wish:
                save(done, held_out.get("validation/loss"))
        if wish is Wish.STOP:
            return


def validate(engine: Engine, batches: Iterable[Batch]) -> dict[str, float]:
    """Mean loss of held-out batches over all workers, and the health of the hashing in the first of them."""
    with hash_health.observed(engine.model) as health:
        loss_sum, num_tokens = engine.evaluate(batches)
    return _loss_metrics("validation", loss_sum / num_tokens) | _health_metrics(health, engine.device)


def _health_metrics(health: hash_health.HashHealth, device: torch.device) -> dict[str, float]:
    """Means over all workers' sequences and heads, and the seconds that measuring took each."""
    sums = torch.cat([health.sums().flatten(), torch.tensor([health.seconds], dtype=torch.float64)]).to(device)
    dist.all_reduce(sums)
    found = hash_health.metrics(sums[:-1].view_as(health.sums()))
    return found | {"hashing/seconds": sums[-1].item() / dist.get_world_size()} if found else {}


def memory(device: torch.device) -> dict[str, float]:
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


class Meter:
    """Loss, speed and traffic, read from the device only when a step is logged."""

    def __init__(self, device: torch.device, traffic: Traffic) -> None:
        self._traffic = traffic
        self._num_tokens = torch.zeros((), dtype=torch.float64, device=device)
        self._num_steps = 0
        self._starved = 0.0
        self._since = self._now()

    def count(self, result: torch.Tensor) -> None:
        """Take in what `Engine.train_step` returned."""
        self._num_tokens += result[1]
        self._num_steps += 1

    def read(self, result: torch.Tensor, engine: Engine) -> dict[str, float]:
        """Metrics of the last step, whose result is given; speed and traffic are means since the last reading."""
        _, sent, waited = (now - since for now, since in zip(self._now(), self._since, strict=True))
        sums = torch.stack([result[0], *result.new_tensor([sent, waited, self._starved])])
        dist.all_reduce(sums)
        values = torch.cat([sums, result[1:2], self._num_tokens[None]]).tolist()
        loss_sum, sent, waited, starved, count, num_tokens = values
        loss = loss_sum / max(1.0, count)
        seconds = time.perf_counter() - self._since[0]
        each = self._num_steps * dist.get_world_size()
        self._num_tokens.zero_()
        self._num_steps = 0
        self._starved = 0.0
        self._since = self._now()
        return _loss_metrics("train", loss) | {
            "train/tokens_per_second": num_tokens / seconds,
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


def _loss_metrics(split: str, loss: float) -> dict[str, float]:
    return {f"{split}/loss": loss, f"{split}/bits_per_token": loss / math.log(2)}
