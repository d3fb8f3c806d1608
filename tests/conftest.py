"""One thread for every process of the tests: their tensors are small, and two cores serve several processes at a time.

Without a GPU, Triton's kernels run in its interpreter, which must be asked for before Triton is imported. Memory that
nobody has written is NaN here and in the processes of tests/ranks.py, so that a result which depends on it is seen.
"""

import os
import shutil

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from xdist.scheduler import LoadScopeScheduling

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from reformer_dist.model.backends.native import build
from tests.uninitialised import poison

ONE_TRAINING = ("test_evaluate.py", "test_interruptions.py", "test_objectives.py", "test_train.py")
"""Files of tests/jobs that look at one training."""


class Groups(LoadScopeScheduling):
    """Shares the tests among processes file by file; those of one training go to one process."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "one training" if file.endswith(tuple(f"jobs/{name}" for name in ONE_TRAINING)) else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Groups:
    """What `--dist` means here."""
    return Groups(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first: what starts Ray, and of that the one training."""

    def place(item: pytest.Item) -> int:
        if item.path.parent.name == "jobs" and item.path.name in ONE_TRAINING:
            return 0
        return 1 if item.path.parent.name in {"jobs", "benchmarks"} else 2

    items.sort(key=place)


@pytest.fixture
def one_worker() -> Iterator[None]:
    """A process group of one, for what writes checkpoints."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture(scope="session", autouse=True)
def uninitialised_memory_is_nan() -> None:
    """What is read before it is written spoils every result."""
    poison()


@pytest.fixture(scope="session", autouse=True)
def compiled_attention() -> None:
    """The compiled attention is under test too: a build that fails is a failure, wherever there is a compiler."""
    if shutil.which("g++"):
        build.build()
        assert build.is_loaded()
