"""The compiled attention is under test too: a build that fails is a failure, wherever there is a compiler."""

import shutil

import pytest

from reformer_dist.model.native import build


@pytest.fixture(scope="session", autouse=True)
def compiled_attention() -> None:
    if shutil.which("g++"):
        build.build()
        assert build.is_loaded()
