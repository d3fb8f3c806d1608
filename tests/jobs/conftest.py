"""One tiny training, run as a user runs it, that several modules look at."""

from pathlib import Path

import pytest

from tests.jobs.running import WHOLE, Job, run_job, write_text


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with some text to train on; what the jobs store goes beside it."""
    return write_text(tmp_path_factory.mktemp("train"))


@pytest.fixture(scope="session")
def whole(place: Path) -> Job:
    """Thirty steps in one go that nothing disturbs."""
    job = run_job(place, train__run_name="whole", **WHOLE)
    assert job.status == 0, job.errors
    return job
