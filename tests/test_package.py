"""The names that the package offers: all are there, and those that need torch are imported when they are asked for."""

import subprocess
import sys

import pytest

import reformer_dist


def test_every_name_is_there() -> None:
    for name in reformer_dist.__all__:
        assert getattr(reformer_dist, name) is not None
    for name, module in reformer_dist._LATER.items():
        assert name in reformer_dist.__all__
        assert getattr(reformer_dist, name) is getattr(sys.modules[module], name)


def test_a_name_that_is_not_there_is_told() -> None:
    with pytest.raises(AttributeError, match=r"module 'reformer_dist' has no attribute 'nothing'"):
        reformer_dist.nothing  # noqa: B018
    with pytest.raises(ImportError, match="nothing"):
        from reformer_dist import nothing  # noqa: F401


def test_the_package_starts_without_torch() -> None:
    code = "import sys, reformer_dist; reformer_dist.load_config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
