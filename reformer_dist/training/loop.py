"""The training loop: batches in, optimizer steps, metrics and checkpoints out, in one worker.

It knows the engine and nothing of what started it; everything it does, all workers do together.
"""

import math
import resource
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
import torch.distributed as dist

from reformer_dist.config import Config
from reformer_dist.data.batch import Batch
from reformer_dist.training.engine import Engine, learning_rate
from reformer_dist.training.watch import Watch

Report = Callable[[int, dict[str, float]], object]
"""Takes a number of steps done and metrics by name."""


def train(
    config: Config,
    engine: Engine,
    batches: Iterator[Sequence[Batch]],
    validation: Callable[[], Iterable[Batch]],
    report: Report,
    save: Callable[[int, float | None], None],
    start_step: int = 0,
    asked_to_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train from `start_step` to `config.train.steps`, or until one is asked to stop, with a checkpoint at the end.

    Args:
        config: lengths and intervals.
        engine: holds the model, in the state that belongs to `start_step`.
        batches: this worker's micro-batches of each step from `start_step` on.
        validation: this worker's part of the held-out batches, the same number on every worker.
        report: called on every worker, with values over all of them.
        save: writes a checkpoint after so many steps, given their validation loss if there is one.
        start_step: steps done before.
        asked_to_stop: looked at where a step is logged; one worker's yes is enough.

    Raises:
        Diverged: on all workers, at the next logged step or checkpoint after a loss or gradient was not finite.
    """
    settings = config.train
    watch = Watch(engine.device, asked_to_stop)
    meter = Meter(engine.device)
    for step in range(start_step, settings.steps):
        result = engine.train_step(next(batches), step)
        meter.count(result)
        watch.see(step, result[0], engine.grad_norm())
        done, last = step + 1, step + 1 == settings.steps
        logged, saved = (last or done % every == 0 for every in (settings.log_every, settings.checkpoint_every))
        stop = (logged or saved) and watch.read()
        if logged:
            metrics = meter.read(result, engine)
            metrics["train/learning_rate"] = learning_rate(config.optimizer, step, settings.steps)
            report(done, metrics)
        with meter.paused():
            held_out: dict[str, float] = {}
            if last or done % settings.validate_every == 0:
                held_out = validate(engine, validation())
                report(done, held_out | memory(engine.device))
            if saved or stop:
                save(done, held_out.get("validation/loss"))
        if stop:
            return


def validate(engine: Engine, batches: Iterable[Batch]) -> dict[str, float]:
    """Mean loss of held-out batches over all workers."""
    loss_sum, num_tokens = engine.evaluate(batches)
    return _loss_metrics("validation", loss_sum / num_tokens)


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
    """Loss and speed, read from the device only when a step is logged."""

    def __init__(self, device: torch.device) -> None:
        self._num_tokens = torch.zeros((), dtype=torch.float64, device=device)
        self._started = time.perf_counter()

    def count(self, result: torch.Tensor) -> None:
        """Take in what `Engine.train_step` returned."""
        self._num_tokens += result[1]

    def read(self, result: torch.Tensor, engine: Engine) -> dict[str, float]:
        """Metrics of the last step, whose result is given; speed is the mean since the last reading."""
        loss_sum = result[0].clone()
        dist.all_reduce(loss_sum)
        loss, num_tokens = torch.stack([loss_sum / result[1].clamp(min=1.0), self._num_tokens]).tolist()
        now = time.perf_counter()
        speed = num_tokens / (now - self._started)
        self._num_tokens.zero_()
        self._started = now
        return _loss_metrics("train", loss) | {
            "train/tokens_per_second": speed,
            "train/grad_norm": float(engine.grad_norm()),
        }

    def paused(self) -> "_Pause":
        """A block whose time does not count."""
        return _Pause(self)

    def skip(self, seconds: float) -> None:
        """Leave out time that was not spent on training steps."""
        self._started += seconds


class _Pause:
    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._meter.skip(time.perf_counter() - self._started)


def _loss_metrics(split: str, loss: float) -> dict[str, float]:
    return {f"{split}/loss": loss, f"{split}/bits_per_token": loss / math.log(2)}
