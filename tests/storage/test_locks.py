"""One process at a time: the second is told who is there, and a process that is gone holds nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from reformer_dist.storage.locks import Taken, alone

HOLD = """
import sys, time
from pathlib import Path
from reformer_dist.storage.locks import alone
with alone(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_second_is_told_who_is_there_and_nothing_stays(tmp_path: Path) -> None:
    file = tmp_path / "run" / "driver.lock"
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(file)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with (
        pytest.raises(Taken, match=rf"^process {process.pid} on \S+ since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d$"),
        alone(file),
    ):
        pass
    assert file.exists(), "it is not the second's to remove"
    process.kill()
    process.wait()
    with alone(file):
        assert file.read_text().startswith(f"process {os.getpid()} ")
    assert not file.parent.exists()


def test_a_folder_with_something_in_it_stays(tmp_path: Path) -> None:
    with alone(tmp_path / "run" / "driver.lock"):
        (tmp_path / "run" / "kept").write_text("x")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["kept"]
