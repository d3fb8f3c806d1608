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
