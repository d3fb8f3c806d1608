"""Trainings that are interrupted: killed workers, a killed job, a signal. All end as if nothing had happened."""

import os
import signal
from pathlib import Path

import pytest

from reformer_dist.training import checkpoint
from tests.integration.jobs import Job, Running, points, run_job, write_text

OPTIONS = {"train__steps": 30, "train__checkpoint_every": 5, "train__validate_every": 30, "train__log_every": 1}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with some text to train on."""
    return write_text(tmp_path_factory.mktemp("interruptions"))


@pytest.fixture(scope="module")
def whole(place: Path) -> Job:
    """The training that nothing disturbs."""
    job = run_job(place, train__run_name="whole", **OPTIONS)
    assert job.status == 0, job.errors
    return job


def steps_done(place: Path, name: str) -> int:
    """Steps of the newest complete checkpoint of a run that is being written."""
    folders = (place / "runs" / name / "1").glob("step_*/manifest.json")
    return max((int(path.parent.name[5:]) for path in folders), default=0)


def same_end(place: Path, name: str, job: Job, whole: Job) -> None:
    """Same weights to the last bit, and one point for each step in one MLflow run, of the same values."""
    weights = [Path(checkpoint.latest(str(place / "runs"), n)) / "model.safetensors" for n in (name, "whole")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    expected, found = points(place, whole), points(place, job)
    for metric in ("train/loss", "train/grad_norm", "validation/loss"):
        assert found[metric] == expected[metric], metric


def test_a_killed_worker_is_replaced(place: Path, whole: Job) -> None:
    running = Running(place, train__run_name="worker", **OPTIONS)
    running.wait_for(lambda: steps_done(place, "worker") >= 5)
    os.kill(running.workers()[-1], signal.SIGKILL)
    job = running.wait()
    assert job.status == 0, job.errors
    assert "failed" in job.output
    assert "continuing from step" in job.output
    same_end(place, "worker", job, whole)


def test_a_killed_job_goes_on_where_it_was(place: Path, whole: Job) -> None:
    running = Running(place, train__run_name="job", **OPTIONS)
    running.wait_for(lambda: steps_done(place, "job") >= 10)
    running.process.kill()
    running.wait()
    job = run_job(place, train__run_name="job", **OPTIONS)
    assert job.status == 0, job.errors
    assert "continuing from step" in job.output
    same_end(place, "job", job, whole)


def test_a_signal_leaves_a_checkpoint_of_the_last_step(place: Path, whole: Job) -> None:
    """The last step done, not the last one that was due for a checkpoint: nothing is computed twice."""
    rare = OPTIONS | {"train__checkpoint_every": 1000}
    running = Running(place, train__run_name="signal", **rare)
    assert running.process.stdout is not None
    for line in running.process.stdout:
        if line.startswith("step"):
            break
    running.process.send_signal(signal.SIGTERM)
    stopped = running.wait()
    assert stopped.status == 128 + signal.SIGTERM
    assert stopped.errors.startswith("train.py: stopped by SIGTERM; the same command goes on from ")
    assert len(stopped.errors.splitlines()) == 1
    assert 0 < steps_done(place, "signal") < 30
    job = run_job(place, train__run_name="signal", **rare)
    assert job.status == 0, job.errors
    same_end(place, "signal", job, whole)
