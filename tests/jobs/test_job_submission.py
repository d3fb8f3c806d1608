"""`ray job submit` to a head of its own: status, MLflow run and checkpoint, and a user's mistake in one line."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from reformer_dist import checkpoints
from tests.corpora import random_documents, write_documents

ROOT = Path(__file__).parents[2]
RAY = Path(sys.executable).parent / "ray"
TOKEN = uuid.uuid4().hex
START_SECONDS = 120


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def environment() -> dict[str, str]:
    """This process's, without what would join another cluster or find the package elsewhere than in the upload."""
    hidden = ("RAY_ADDRESS", "PYTHONPATH")
    env = {name: value for name, value in os.environ.items() if name not in hidden}
    env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    return {**env, "PATH": f"{RAY.parent}{os.pathsep}{env.get('PATH', '')}"}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A head with two CPUs and a job server, in a process group that ends with the fixture."""
    port, dashboard, client, *agent = free_ports(6)
    folder = tempfile.mkdtemp(prefix="ray-")  # short, since it holds sockets
    options = [
        f"--port={port}",
        f"--dashboard-port={dashboard}",
        f"--ray-client-server-port={client}",
        f"--dashboard-agent-listen-port={agent[0]}",
        f"--dashboard-agent-grpc-port={agent[1]}",
        f"--metrics-export-port={agent[2]}",
        "--min-worker-port=0",
        "--max-worker-port=0",
        "--dashboard-host=127.0.0.1",
        "--num-cpus=2",
        f"--temp-dir={folder}",
    ]
    command = [str(RAY), "start", "--head", "--block", *options]
    with (Path(folder) / "head.log").open("w") as log:
        head = subprocess.Popen(command, stdout=log, stderr=log, env=environment(), start_new_session=True)
    try:
        url = f"http://127.0.0.1:{dashboard}"
        wait_for(f"{url}/api/version", head, Path(folder) / "head.log")
        yield url
    finally:
        os.killpg(head.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            head.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(head.pid, signal.SIGKILL)
        head.wait()
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(url: str, head: subprocess.Popen[bytes], log: Path) -> None:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {TOKEN}"})
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert head.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(request, timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"{url} did not answer: {log.read_text()}")


def job(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(RAY), "job", *arguments], capture_output=True, text=True, check=False, env=environment(), cwd=ROOT
    )


def submit(address: str, name: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the documented command to its end."""
    command = ["python", "jobs/train.py", "--config", "jobs/configs/tiny.yaml", *options]
    return job("submit", "--address", address, "--submission-id", name, "--working-dir", ".", "--", *command)


def test_a_submitted_training_leaves_a_checkpoint_and_a_run(address: str, tmp_path: Path) -> None:
    documents = write_documents(tmp_path / "documents", random_documents({f"{i:02d}.txt": 400 for i in range(30)}))
    options = ["--data.sources", str(documents), "--data.validation_fraction", "0.2"]
    options += ["--train.storage", str(tmp_path / "runs"), "--train.steps", "3"]
    submitted = submit(address, "training", *options)
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    assert "Job 'training' succeeded" in job("status", "--address", address, "training").stdout
    assert "step 3/3  validation " in submitted.stdout

    path = checkpoints.latest(str(tmp_path / "runs"), "tiny")
    state = checkpoints.verify(path)
    assert state.step == 3
    assert f"checkpoint: {path}" in submitted.stdout
    run = MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db").get_run(state.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["validation/bits_per_token"] > 0
    assert f"MLflow run {state.run_id}" in submitted.stdout


def test_a_users_mistake_fails_the_job_with_one_line(address: str, tmp_path: Path) -> None:
    submitted = submit(address, "mistake", "--train.workers", "99", "--train.storage", str(tmp_path))
    assert submitted.returncode != 0
    assert "Job 'mistake' failed" in job("status", "--address", address, "mistake").stdout
    assert "train.py: train.workers = 99" in submitted.stdout
    assert "Traceback" not in submitted.stdout
