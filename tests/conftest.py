"""One thread for every process of the tests: their tensors are small, and two cores serve several processes at a time.

Without a GPU, Triton's kernels run in its interpreter, which must be asked for before Triton is imported. Memory that
nobody has written is NaN here and in the processes of tests/ranks.py, so that a result which depends on it is seen.
"""

import os
import shutil

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from reformer_dist.model.backends.native import build
from tests.uninitialised import poison


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Two processes share the tests by groups: those that look at one training, and else file by file; the longest first."""

    def of(item: pytest.Item) -> tuple[int, str]:
        folder = item.path.parent.name
        if folder == "jobs" and "place" in getattr(item, "fixturenames", ()):
            return 0, "one training"
        return (1 if folder in {"jobs", "benchmarks"} else 2), str(item.path)

    items.sort(key=lambda item: of(item)[0])
    for item in items:
        item.add_marker(pytest.mark.xdist_group(of(item)[1]))


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
