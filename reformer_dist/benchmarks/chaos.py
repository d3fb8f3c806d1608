"""Does a training survive anything? Workers and the whole job are killed at random steps, many times.

In: a size. Out: a report of the kills, the steps and the time that they cost, and whether the final weights are those of
a training that nothing disturbed, to the last bit.

Each job is a process of its own, on documents made here. Every third victim is killed while a checkpoint is being
written, every fifth is the driver, after which the same command is given again; the others are train workers.
"""

import json
import random
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import psutil

from reformer_dist.config import load_config
from reformer_dist.training import checkpoint

KILLS = {"small": 5, "paper": 25}
CHECKPOINT_EVERY = 10
WORDS = ("alpha", "beta", "gamma", "delta", "epsilon")
MODEL = {"embed_dim": 32, "num_heads": 2, "feed_forward_dim": 64, "layers": "local,lsh", "max_length": 256}
POLL_SECONDS = 0.01


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
        seconds: time of the disturbed training, and of the undisturbed one.
        equal: whether the final weights are the same to the last bit.
        points_equal: whether MLflow has the same point for each step, once.
    """

    kills: list[Kill]
    steps: int
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
    (folder / "text").mkdir()
    for index in range(20):
        (folder / "text" / f"{index}.txt").write_text(" ".join(draw.choices(WORDS, k=300)))
    steps = CHECKPOINT_EVERY * (num_kills + 1)
    settings = _settings(folder, steps)
    started = time.monotonic()
    calm = _Training(settings | {"train.run_name": "calm"})
    calm.finish()
    middle = time.monotonic()
    kills = []
    chaos = settings | {"train.run_name": "chaos", "train.max_failures": num_kills}
    training = _Training(chaos)
    for number in range(1, num_kills + 1):
        victim: Literal["worker", "driver"] = "driver" if number % 5 == 0 else "worker"
        while_saving = number % 3 == 0
        training.wait_for(CHECKPOINT_EVERY * number, while_saving, draw)
        kills.append(Kill(victim, while_saving, training.steps_done()))
        training.kill(victim, draw)
        print(f"kill {number}/{num_kills}: {kills[-1]}", flush=True)
        if victim == "driver":
            training = _Training(chaos)
    training.finish()
    end = time.monotonic()
    return Report(kills, steps, (end - middle, middle - started), *_compare(folder))


class _Training:
    """A training in a process of its own, and what can be seen of it from outside."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._run = Path(settings["train.storage"]) / settings["train.run_name"] / "1"
        self._process = get_context("spawn").Process(target=_train, args=(settings,))
        self._process.start()

    def steps_done(self) -> int:
        """Steps of the newest complete checkpoint."""
        return max((int(path.parent.name[5:]) for path in self._run.glob("step_*/manifest.json")), default=0)

    def wait_for(self, steps: int, while_saving: bool, draw: random.Random) -> None:
        """Wait for a random moment after the checkpoint before `steps`, or for that of `steps` to be under way."""
        while self._alive() and not (self.steps_done() >= steps - CHECKPOINT_EVERY and self._workers()):
            time.sleep(POLL_SECONDS)
        if while_saving:
            while self._alive() and not (self._run / f"step_{steps:08d}").exists():
                time.sleep(POLL_SECONDS)
        else:
            time.sleep(draw.uniform(0.0, 2.0))

    def kill(self, victim: str, draw: random.Random) -> None:
        """SIGKILL to the driver, whose Ray is waited for to end, or to one of the workers."""
        driver = psutil.Process(self._process.pid)
        if victim == "worker":
            draw.choice(self._workers()).kill()
            return
        beneath = driver.children(recursive=True)
        driver.kill()
        self._process.join()
        _, alive = psutil.wait_procs(beneath, timeout=60)
        for process in alive:
            process.kill()

    def finish(self) -> None:
        """Wait for its end.

        Raises:
            RuntimeError: it failed.
        """
        self._process.join()
        if self._process.exitcode:
            raise RuntimeError(f"the training ended with status {self._process.exitcode}")

    def _alive(self) -> bool:
        if not self._process.is_alive():
            raise RuntimeError("the training ended before all kills were made")
        return True

    def _workers(self) -> list[psutil.Process]:
        """The train workers, in order of their process ids."""
        found = []
        for process in psutil.Process(self._process.pid).children(recursive=True):
            try:
                if "TrainWorker" in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return sorted(found, key=lambda process: process.pid)


def _train(settings: dict[str, Any]) -> None:
    from reformer_dist.training.launcher import launch

    launch(load_config(None, settings))


def _settings(folder: Path, steps: int) -> dict[str, Any]:
    return {
        "data": {"sources": str(folder / "text"), "sequence_length": 256},
        "model": MODEL | {"hidden_dropout": 0.1},
        "parallel.sequence_shards": 2,
        "train": {
            "workers": 2,
            "threads": 1,
            "steps": steps,
            "batch_size": 4,
            "validate_every": steps,
            "checkpoint_every": CHECKPOINT_EVERY,
        },
        "train.storage": str(folder / "runs"),
    }


def _compare(folder: Path) -> tuple[bool, bool]:
    """Whether both trainings ended with the same weights, and logged the same."""
    from reformer_dist import tracking

    paths = [Path(checkpoint.latest(str(folder / "runs"), name)) for name in ("calm", "chaos")]
    weights = [(path / "model.safetensors").read_bytes() for path in paths]
    uri = f"sqlite:///{folder}/runs/mlflow.db"
    curves = [tracking.read_history(uri, checkpoint.read_state(str(path)).run_id, "train/loss") for path in paths]
    return weights[0] == weights[1], curves[0] == curves[1]
