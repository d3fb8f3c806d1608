"""One tiny training, run as a user runs it, that several modules look at."""

from pathlib import Path

import pytest

from tests.integration.jobs import Job, run_job, write_text


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with some text to train on; what the jobs store goes beside it."""
    return write_text(tmp_path_factory.mktemp("train"))


@pytest.fixture(scope="session")
def whole(place: Path) -> Job:
    """Six steps in one go, in float64, so that what is computed again differs by the order of sums alone."""
    return run_job(place, train__run_name="whole", train__dtype="float64", data__validation_fraction=0.2)
