"""A job that is stopped, whatever it is doing: one line, its status, no process left, and the same command goes on."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from reformer_dist import checkpoints
from tests.jobs.running import WHOLE, Job, Running, points


@pytest.mark.parametrize("moment", ["ray starts", "it works"])
def test_a_preparation_that_is_stopped_leaves_nothing_running_and_goes_on(tmp_path: Path, moment: str) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for index in range(20):
        (folder / f"{index:03d}.txt").write_text(f"text {index} " * 20_000)
    command = [sys.executable, "jobs/prepare_data.py", "--data.sources", str(folder), "--train.storage", str(tmp_path)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    if moment == "it works":
        assert process.stdout is not None
        assert process.stdout.readline().startswith("preparing 20 files")
    else:
        time.sleep(3.5)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 143
    assert err == "prepare_data.py: stopped by SIGTERM\n"
    _expect_nothing_left_of(process.pid)
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "train: " in again.stdout


def test_a_training_that_is_stopped_at_any_moment_ends_as_if_it_had_not_been(place: Path, whole: Job) -> None:
    """Stopped while workers start, between validations and checkpoints, and at its end: no step is lost or done twice."""
    every_step = {"train__validate_every": 1, "train__checkpoint_every": 1}
    moments: list[tuple[signal.Signals, Callable[[Running], object], dict[str, int]]] = [
        (signal.SIGTERM, lambda job: job.wait_for(lambda: bool(job.workers())), {}),
        (signal.SIGHUP, lambda job: _wait_for_line(job, "step"), every_step),
        (signal.SIGINT, lambda job: _wait_for_line(job, "step 30/30"), {}),
    ]
    for number, wait, options in moments:
        running = Running(place, **(WHOLE | {"train__run_name": "stopped"} | options))
        wait(running)
        running.process.send_signal(number)
        job = running.wait()
        _expect_nothing_left_of(running.process.pid)
        if job.status:  # the last one's steps are done when it is asked to stop
            assert job.status == 128 + number, job.errors
            (line,) = job.errors.splitlines()
            assert line.startswith(f"train.py: stopped by {number.name}; the same command goes on from ")
    assert job.status == 0, "nothing is left to stop after the last step"
    paths = [Path(checkpoints.latest(str(place / "runs"), name)) for name in ("stopped", "whole")]
    assert [checkpoints.read_state(str(path)).step for path in paths] == [30, 30]
    weights = [(path / "model.safetensors").read_bytes() for path in paths]
    assert weights[0] == weights[1]
    assert points(place, job)["train/loss"] == points(place, whole)["train/loss"]


def _wait_for_line(running: Running, start: str) -> None:
    assert running.process.stdout is not None
    assert any(line.startswith(start) for line in running.process.stdout), f"no line starts with {start}"


def _expect_nothing_left_of(leader: int) -> None:
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
