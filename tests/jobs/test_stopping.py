"""A job that is stopped while it prepares: one line, its status, no process left, and the same command goes on."""

import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest


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
    deadline = time.monotonic() + 20
    while left := _of_session(process.pid):
        assert time.monotonic() < deadline, f"still running: {left}"
        time.sleep(0.2)
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "train: " in again.stdout


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
