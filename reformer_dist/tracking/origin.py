"""Where a run comes from: the command, the code and what it runs on, as MLflow's tags."""

import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LIBRARIES = ("torch", "deepspeed", "ray", "mlflow", "pyarrow")
"""Whose versions are told."""
GIT_SECONDS = 5


def origin() -> Mapping[str, str]:
    """Tags of a run that this process starts.

    mlflow.source.name: the command. reformer_dist.command: the command line. mlflow.source.git.commit and
    mlflow.source.git.dirty: of the folder in which it runs, if git knows it. reformer_dist.environment: versions.
    """
    tags = {
        "mlflow.source.name": Path(sys.argv[0]).name,
        "mlflow.source.type": "LOCAL",
        "reformer_dist.command": shlex.join(sys.argv),
        "reformer_dist.environment": ", ".join(_versions()),
    }
    commit = _git("rev-parse", "HEAD")
    if commit is not None:
        changes = _git("status", "--porcelain", "--untracked-files=no")
        tags |= {"mlflow.source.git.commit": commit, "mlflow.source.git.dirty": str(bool(changes)).lower()}
    return tags


def _versions() -> list[str]:
    found = [f"Python {platform.python_version()}"]
    for library in LIBRARIES:
        try:
            found.append(f"{library} {version(library)}")
        except PackageNotFoundError:
            continue
    return [*found, platform.platform()]


def _git(*arguments: str) -> str | None:
    """What git says here, None if there is no git or no repository."""
    try:
        ended = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=GIT_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return ended.stdout.strip()
