"""A training that is interrupted in every way ends as if nothing had happened."""

import os
import shutil
import signal
from pathlib import Path

from reformer_dist import checkpoints
from tests.jobs.running import WHOLE, Job, Running, expect_nothing_left_of, points


def steps_done(place: Path, name: str) -> int:
    """Steps of the newest complete checkpoint of a run that is being written."""
    folders = (place / "runs" / name / "1").glob("step_*/manifest.json")
    return max((int(path.parent.name[5:]) for path in folders), default=0)


def lose_checkpoints_after(place: Path, name: str, step: int) -> None:
    """Remove newer checkpoints, as if the run had ended before it wrote them."""
    for folder in (place / "runs" / name / "1").glob("step_*"):
        if int(folder.name[5:]) > step:
            shutil.rmtree(folder)


def go_on(place: Path, **options: object) -> Running:
    """Give the same command once more."""
    return Running(place, **(WHOLE | {"train__run_name": "disturbed"} | options))


def test_kills_and_signals_leave_no_trace(place: Path, whole: Job) -> None:
    """One training whose worker is killed, then its job; then it is told to stop while its workers start, at its
    first steps with validations and checkpoints between them, and at its end.

    It ends with the undisturbed one's weights to the last bit, and one MLflow run with each step once, of the same values.
    """
    running = go_on(place)
    running.wait_for(lambda: steps_done(place, "disturbed") >= 5)
    os.kill(running.workers()[-1], signal.SIGKILL)
    running.wait_for(lambda: steps_done(place, "disturbed") >= 10)
    running.process.kill()
    killed = running.wait()
    assert "failed" in killed.output
    assert "continuing from step" in killed.output
    lose_checkpoints_after(place, "disturbed", 10)  # how many more the workers wrote before they died is chance

    # Checkpoints are not due, so what a signal leaves is the last step done: nothing is computed twice.
    running = go_on(place, train__checkpoint_every=1000)
    running.wait_for(lambda: bool(running.workers()))
    stop(running, signal.SIGTERM, place)

    # The first step takes seconds, and each a validation and a checkpoint, so the signal comes long before the last.
    running = go_on(place, train__checkpoint_every=1, train__validate_every=1)
    line_of(running, "continuing from step")
    stop(running, signal.SIGHUP, place)

    running = go_on(place)
    line_of(running, "step 30/30")
    running.process.send_signal(signal.SIGINT)
    job = running.wait()
    assert job.status == 0, f"after the last step there is nothing left to stop: {job.errors}"
    weights = [Path(checkpoints.latest(str(place / "runs"), n)) / "model.safetensors" for n in ("disturbed", "whole")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    expected, found = points(place, whole), points(place, job)
    for metric in ("train/loss", "train/grad_norm"):
        assert found[metric] == expected[metric], metric
    assert set(expected["validation/loss"]) <= set(found["validation/loss"])
    steps = [step for step, _ in found["validation/loss"]]
    assert len(steps) == len(set(steps))


def stop(running: Running, number: signal.Signals, place: Path) -> None:
    """Send a signal, and expect one line, its status, a checkpoint that is no older than the one before, no process."""
    before = steps_done(place, "disturbed")
    running.process.send_signal(number)
    job = running.wait()
    assert job.status == 128 + number, job.errors
    (line,) = job.errors.splitlines()
    assert line.startswith(f"train.py: stopped by {number.name}; the same command goes on from ")
    assert before <= steps_done_by(job) == steps_done(place, "disturbed") < 30
    expect_nothing_left_of(running.process.pid)


def line_of(running: Running, start: str) -> str:
    """The next line that begins so."""
    assert running.process.stdout is not None
    return next(line for line in running.process.stdout if line.startswith(start))


def steps_done_by(stopped: Job) -> int:
    """The step of the checkpoint that a stopped job names."""
    return int(stopped.errors.rpartition("step_")[2])
