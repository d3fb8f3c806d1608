"""The training loop: batches in, optimizer steps, metrics and checkpoints out, in one worker.

It knows the engine and neither what started it nor what is learned; everything it does, all workers do together.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
import torch.distributed as dist

from reformer_dist.config import Config
from reformer_dist.data.feeding.batch import Batch
from reformer_dist.model.attention.lsh import hash_health
from reformer_dist.parallel.collectives import Traffic
from reformer_dist.training.engine.engine import Engine
from reformer_dist.training.engine.optimizer import learning_rate
from reformer_dist.training.meter import Meter, in_split, peak_memory
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
                report(done, held_out | peak_memory(engine.device))
            if saved or wish:
                save(done, held_out.get("validation/loss"))
        if wish is Wish.STOP:
            return


def validate(engine: Engine, batches: Iterable[Batch]) -> dict[str, float]:
    """Metrics of held-out batches over all workers, and the health of the hashing in the first of them."""
    with hash_health.observed(engine.model) as health:
        sums = engine.evaluate(batches)
    return in_split("validation", engine.objective.metrics(sums)) | _health_metrics(health, engine.device)


def _health_metrics(health: hash_health.HashHealth, device: torch.device) -> dict[str, float]:
    """Means over all workers' sequences and heads, and the seconds that measuring took each."""
    sums = torch.cat([health.sums().flatten(), torch.tensor([health.seconds], dtype=torch.float64)]).to(device)
    dist.all_reduce(sums)
    found = hash_health.metrics(sums[:-1].view_as(health.sums()))
    return found | {"hashing/seconds": sums[-1].item() / dist.get_world_size()} if found else {}
