"""A checkpoint of an untrained model, exported once."""

from pathlib import Path

import pytest

from tests.checkpoints.untrained import make_config, write


@pytest.fixture
def checkpoint(tmp_path: Path, one_worker: None) -> str:
    """Path of a checkpoint of run a, step 3."""
    storage = str(tmp_path / "runs")
    return write(f"{storage}/a/1", 3, make_config(storage, **{"train.run_name": "a"}))
