"""A job that is stopped while it prepares: one line, its status, no process left, and the same command goes on."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.jobs.running import expect_nothing_left_of


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
        while not psutil.Process(process.pid).children():
            time.sleep(0.05)
        time.sleep(1.5)  # of the three seconds or so that it takes
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 143
    assert err == "prepare_data.py: stopped by SIGTERM\n"
    expect_nothing_left_of(process.pid)
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "train: " in again.stdout
