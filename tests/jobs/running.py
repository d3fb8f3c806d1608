"""Running jobs/train.py on the tiny configuration, as a user does."""

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mlflow import MlflowClient

ROOT = Path(__file__).parents[2]
WHOLE = {
    "train__steps": 30,
    "train__checkpoint_every": 5,
    "train__validate_every": 15,
    "train__dtype": "float64",
    "data__validation_fraction": 0.2,
}
"""Options of the training that others are compared with; in float64, so that only the order of sums can differ."""


@dataclass
class Job:
    """A job that has ended."""

    status: int
    output: str
    errors: str


def write_text(folder: Path) -> Path:
    """Put some text to train on under `folder`; what the jobs store goes beside it."""
    words = np.random.default_rng(0).choice(["alpha", "beta", "gamma"], (20, 200))
    (folder / "text").mkdir()
    for index, row in enumerate(words):
        (folder / "text" / f"{index}.txt").write_text(" ".join(row))
    return folder


def command(place: Path, **options: object) -> list[str]:
    """The job's command line, with `train__steps=3` for --train.steps 3."""
    arguments = {"data.sources": place / "text", "train.storage": place / "runs", "optimizer.schedule": "constant"}
    arguments["config"] = ROOT / "jobs/configs/tiny.yaml"
    arguments |= {name.replace("__", "."): value for name, value in options.items()}
    script = [sys.executable, str(ROOT / "jobs/train.py")]
    return script + [str(part) for name, value in arguments.items() for part in (f"--{name}", value)]


class Running:
    """The job, started with that command line."""

    def __init__(self, place: Path, **options: object) -> None:
        self._mark = f"JOB_OF_A_TEST={uuid.uuid4()}"
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | dict([self._mark.split("=")])
        heeding = ["env", "--default-signal=INT,HUP"]  # whatever the tests were started under, such as nohup
        self.process = subprocess.Popen(
            [*heeding, *command(place, **options)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=place,
            start_new_session=True,
        )

    def wait(self) -> Job:
        """What became of it."""
        output, errors = self.process.communicate()
        return Job(self.process.returncode, output, errors)

    def wait_for(self, reached: Callable[[], bool]) -> None:
        """Wait until the job has come so far."""
        while not reached():
            assert self.process.poll() is None, "the job ended before it came so far"
            time.sleep(0.02)

    def workers(self) -> list[int]:
        """Process ids of its train workers."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                environment, command = (path / "environ").read_bytes(), (path / "cmdline").read_bytes()
            except OSError:
                continue  # a process that has ended, or of another user
            if b"ray::" in command and b"TrainWorker" in command and self._mark.encode() in environment:
                found.append(int(path.name))
        return found


def run_job(place: Path, **options: object) -> Job:
    """The job from start to end."""
    return Running(place, **options).wait()


def points(place: Path, job: Job) -> dict[str, list[tuple[int, float]]]:
    """All points of the MLflow run that a job printed, in the order in which they were logged."""
    client = MlflowClient(f"sqlite:///{place}/runs/mlflow.db")
    run_id = job.output.split("MLflow run ")[1].split()[0]
    names = client.get_run(run_id).data.metrics
    return {name: [(p.step, p.value) for p in client.get_metric_history(run_id, name)] for name in names}


def expect_nothing_left_of(leader: int) -> None:
    """Wait until no process of a session is left."""
    deadline = time.monotonic() + 20
    while left := _of_session(leader):
        assert time.monotonic() < deadline, f"still running: {left}"
        time.sleep(0.2)


def _of_session(leader: int) -> list[str]:
    """Processes of a session that are not ended yet."""
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdecimal():
            with suppress(OSError):
                fields = (place / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == leader and fields[0] != "Z":
                    found.append((place / "cmdline").read_text().replace("\0", " ")[:80])
    return found
