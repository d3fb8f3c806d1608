"""A file is there whole or not at all; devices are never replaced."""

import os
import stat
import threading
from pathlib import Path

import pytest

from reformer_dist.storage.whole_files import whole_file


def test_nothing_is_there_before_the_end_nor_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"old")
    with whole_file(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    with pytest.raises(TypeError), whole_file(path) as file:
        file.writelines([b"half", None])  # type: ignore[list-item]
    assert path.read_bytes() == b"new"
    assert [*tmp_path.iterdir()] == [path]


def test_a_full_device_stays_a_device() -> None:
    with pytest.raises(OSError, match="No space left"), whole_file(Path("/dev/full")) as file:
        file.write(b"text")
    assert stat.S_ISCHR(Path("/dev/full").stat().st_mode)


def test_a_pipe_is_written_as_it_comes(tmp_path: Path) -> None:
    pipe, found = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: found.append(pipe.read_bytes()), daemon=True)
    reader.start()
    with whole_file(pipe) as file:
        file.write(b"text")
    reader.join(10)
    assert found == [b"text"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
