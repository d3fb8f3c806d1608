"""Does a training survive anything? Workers and the whole job are killed at random steps, many times.

In: a size. Out: a report of the kills, the steps and the time that they cost, and whether the final weights are those of
a training that nothing disturbed, to the last bit.

Every third victim is killed while a checkpoint is being written, every fifth is the driver, after which the same command
is given again; the others are train workers.
"""

import json
import random
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from reformer_dist import checkpoints
from reformer_dist.benchmarks.reliability.trainings import Training, curve, settings, steps_again, write_documents

KILLS = {"small": 5, "paper": 25}
CHECKPOINT_EVERY = 10


@dataclass(frozen=True)
class Kill:
    """One kill: who, in which circumstances, after how many steps of the newest complete checkpoint."""

    victim: Literal["worker", "driver"]
    while_saving: bool
    checkpoint_step: int


@dataclass
class Report:
    """What the kills cost.

    Attributes:
        kills: all of them.
        steps: optimizer steps of the training.
        steps_again: those that were computed more than once; of a killed driver, those that it had logged.
        seconds: time of the disturbed training, and of the undisturbed one.
        equal: whether the final weights are the same to the last bit.
        points_equal: whether MLflow has the same point for each step, once.
    """

    kills: list[Kill]
    steps: int
    steps_again: int
    seconds: tuple[float, float]
    equal: bool
    points_equal: bool


def run(size: Literal["small", "paper"], output: Path) -> None:
    """Print the report and write chaos-SIZE.json into `output`."""
    kills = KILLS[size]
    with tempfile.TemporaryDirectory() as folder:
        report = disturb(Path(folder), kills, seed=0)
    saving = sum(kill.while_saving for kill in report.kills)
    drivers = sum(kill.victim == "driver" for kill in report.kills)
    disturbed, calm = report.seconds
    print(
        f"kills survived: {len(report.kills)}, of them {saving} while a checkpoint was written and {drivers} of the driver"
    )
    print(f"time: {disturbed:.0f} s for {report.steps} steps where {calm:.0f} s are undisturbed")
    print(f"time lost: {(disturbed - calm) / kills:.1f} s a kill")
    print(f"steps computed again: {report.steps_again}, {report.steps_again / kills:.1f} a kill")
    print(f"final weights equal to the last bit: {'yes' if report.equal else 'NO'}")
    print(f"every step once in MLflow, with the same loss: {'yes' if report.points_equal else 'NO'}")
    output.mkdir(parents=True, exist_ok=True)
    path = output / f"chaos-{size}.json"
    path.write_text(json.dumps(asdict(report), indent=1))
    print(path)
    if not (report.equal and report.points_equal):
        sys.exit(1)


def disturb(folder: Path, num_kills: int, seed: int) -> Report:
    """Train twice in `folder`, once in peace and once with `num_kills` kills."""
    draw = random.Random(seed)
    write_documents(folder, draw)
    steps = CHECKPOINT_EVERY * (num_kills + 1)
    values = settings(folder, workers=2, steps=steps, validate_every=steps, checkpoint_every=CHECKPOINT_EVERY)
    values |= {"parallel.sequence_shards": 2}
    started = time.monotonic()
    Training(values | {"train.run_name": "calm"}).finish()
    middle = time.monotonic()
    kills = []
    chaos = values | {"train.run_name": "chaos", "train.max_failures": num_kills}
    training = Training(chaos)
    for number in range(1, num_kills + 1):
        victim: Literal["worker", "driver"] = "driver" if number % 5 == 0 else "worker"
        training.wait_until(partial(_works_after, training, CHECKPOINT_EVERY * (number - 1)))
        worker = draw.choice(training.workers())
        while_saving = _wait(training, CHECKPOINT_EVERY * number, number % 3 == 0, draw)
        kills.append(Kill(victim, while_saving, training.steps_done()))
        if victim == "worker":
            worker.kill()
        else:
            training.kill()
            training = Training(chaos)
        print(f"kill {number}/{num_kills}: {kills[-1]}", flush=True)
    training.finish()
    end = time.monotonic()
    again = steps_again(training.output())
    return Report(kills, steps, again, (end - middle, middle - started), *_compare(folder))


def _works_after(training: Training, steps: int) -> bool:
    """Whether it has workers and so many steps are in a checkpoint."""
    return training.steps_done() >= steps and len(training.workers()) > 0


def _wait(training: Training, steps: int, while_saving: bool, draw: random.Random) -> bool:
    """Wait a random time, or for the checkpoint of `steps` to be begun; returns whether one is being written then."""
    if not while_saving:
        time.sleep(draw.uniform(0.0, 2.0))
        return False
    training.wait_until(lambda: training.saves(steps))
    return training.steps_done() < steps


def _compare(folder: Path) -> tuple[bool, bool]:
    """Whether both trainings ended with the same weights, and logged the same."""
    paths = [Path(checkpoints.latest(str(folder / "runs"), name)) for name in ("calm", "chaos")]
    weights = [(path / "model.safetensors").read_bytes() for path in paths]
    return weights[0] == weights[1], curve(folder, "calm") == curve(folder, "chaos")
