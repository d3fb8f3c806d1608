"""Trainings that benchmarks disturb: each a process of its own, on documents made here.

In: settings. Out: a training that can be watched from outside, killed and waited for, and what its curve is.
"""

import os
import random
import re
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil

from reformer_dist import checkpoints
from reformer_dist.cli import answer
from reformer_dist.config import load_config
from reformer_dist.tracking.client import read_history

WORDS = ("alpha", "beta", "gamma", "delta", "epsilon")
MODEL = {"embed_dim": 32, "num_heads": 2, "feed_forward_dim": 64, "layers": "local,lsh", "max_length": 256}
POLL_SECONDS = 0.01
PATIENCE = 300.0
"""Longest wait for anything, in seconds."""


def write_documents(folder: Path, draw: random.Random) -> None:
    """Make a folder's text/, twenty files of random words."""
    (folder / "text").mkdir()
    for index in range(20):
        (folder / "text" / f"{index}.txt").write_text(" ".join(draw.choices(WORDS, k=300)))


def settings(folder: Path, **train: object) -> dict[str, Any]:
    """A small training with dropout on the documents in `folder`, which also takes what it stores."""
    return {
        "data": {"sources": str(folder / "text"), "sequence_length": 256},
        "model": MODEL | {"hidden_dropout": 0.1},
        "train": {"threads": 1, "batch_size": 4, "storage": str(folder / "runs"), **train},
    }


class Training:
    """A training in a process of its own; what it prints goes to a file beside its storage."""

    def __init__(self, values: dict[str, Any], environment: Mapping[str, str] | None = None) -> None:
        """Start it, with variables of the environment beside this process's."""
        config = load_config(None, values)
        self._run = Path(config.train.storage) / config.train.run_name / "1"
        self._log = Path(config.train.storage).parent / f"{config.train.run_name}.log"
        self._process = get_context("spawn").Process(target=_train, args=(values, self._log, dict(environment or {})))
        self._process.start()

    def output(self) -> str:
        """What it has printed, and those before it under its name."""
        return self._log.read_text() if self._log.exists() else ""

    def steps_done(self) -> int:
        """Steps of the newest complete checkpoint."""
        return checkpoints.newest_step(str(self._run))

    def saves(self, step: int) -> bool:
        """Whether the checkpoint of a step is being written or is complete."""
        return (self._run / f"step_{step:08d}").exists()

    def wait_until(self, reached: Callable[[], bool]) -> float:
        """Wait for something to become true while the training runs; returns the seconds that it took.

        Raises:
            RuntimeError: the training ended, or it took longer than PATIENCE.
        """
        start = time.monotonic()
        while not reached():
            if not self._process.is_alive():
                raise RuntimeError(f"the training ended too early:\n{self.output()}")
            if time.monotonic() - start > PATIENCE:
                raise RuntimeError(f"it did not come so far in {PATIENCE:.0f} s:\n{self.output()}")
            time.sleep(POLL_SECONDS)
        return time.monotonic() - start

    def kill(self) -> None:
        """SIGKILL; its Ray is waited for to end."""
        driver = psutil.Process(self._process.pid)
        beneath = driver.children(recursive=True)
        driver.kill()
        self._process.join()
        _, alive = psutil.wait_procs(beneath, timeout=60)
        for process in alive:
            process.kill()

    def stop(self) -> None:
        """SIGTERM, and wait for the end."""
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGTERM)
        self._process.join()

    def finish(self) -> None:
        """Wait for its end.

        Raises:
            RuntimeError: it failed.
        """
        self._process.join()
        if self._process.exitcode:
            raise RuntimeError(f"the training ended with status {self._process.exitcode}:\n{self.output()}")

    def workers(self) -> list[psutil.Process]:
        """The train workers of its own Ray, in order of their process ids."""
        found = []
        for process in psutil.Process(self._process.pid).children(recursive=True):
            try:
                if "TrainWorker" in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return sorted(found, key=lambda process: process.pid)


def steps_again(output: str) -> int:
    """Steps that were computed more than once, by what the drivers printed."""
    found = re.findall(r"^steps (\d+) to (\d+) are computed again", output, re.MULTILINE)
    return sum(int(last) - int(first) + 1 for first, last in found)


def curve(folder: Path, run_name: str) -> list[tuple[int, float]]:
    """(step, loss) of a training as MLflow has them, whose storage is under `folder`."""
    state = checkpoints.read_state(checkpoints.latest(str(folder / "runs"), run_name))
    return read_history(f"sqlite:///{folder}/runs/mlflow.db", state.run_id, "train/loss")


def _train(values: dict[str, Any], log: Path, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    with log.open("a", buffering=1) as stream, redirect_stdout(stream):
        from reformer_dist.training.launcher import launch

        answer(lambda: print(launch(load_config(None, values)).checkpoint))
