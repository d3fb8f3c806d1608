"""A model in MLflow's registry is served, and answers as `generate` does."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from reformer_dist import generate, load_config, load_model
from reformer_dist.checkpoints import read_state
from reformer_dist.config import ModelConfig
from reformer_dist.errors import ConfigError
from reformer_dist.exporting.folder import export
from reformer_dist.exporting.served import check_servable, register
from reformer_dist.tracking.client import search

PROGRAMS = Path(sys.executable).parent


@pytest.fixture
def exported(checkpoint: str, tmp_path: Path) -> Path:
    """The exported folder."""
    export(checkpoint, str(tmp_path / "mine"), "mine", "mit")
    return tmp_path / "mine"


@pytest.fixture
def address(exported: Path, tmp_path: Path) -> Iterator[str]:
    """Where a server of its newest version answers."""
    fields = {"train.storage": str(tmp_path / "runs"), "train.run_name": "a", "export.register_as": "reformer"}
    state = read_state(str(exported))
    for version in (1, 2):
        name = register(load_config(None, fields), state, str(exported))
        assert name == f"models:/reformer/{version}"
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/runs/mlflow.db",
    }
    command = [str(PROGRAMS / "mlflow"), "models", "serve", "-m", name, "--env-manager", "local", "-p", str(port)]
    server = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, 15)
        server.wait()


def test_what_continues_nothing_is_one_line() -> None:
    for fields in ({"causal": False}, {"lsh_mode": "chunked"}):
        with pytest.raises(ConfigError, match="continues nothing"):
            check_servable(ModelConfig(**fields), "here")
    with pytest.raises(ConfigError, match=r"export\.output = memory://x: .* reads a local folder"):
        check_servable(ModelConfig(), "memory://x")
    with pytest.raises(ConfigError, match=r"export\.output = nowhere://x: .*; a folder of this machine works"):
        check_servable(ModelConfig(), "nowhere://x")


def ask(address: str, path: str, question: object = None) -> bytes:
    body = None if question is None else json.dumps(question).encode()
    request = urllib.request.Request(address + path, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return bytes(answer.read())


def test_a_served_model_continues_prompts(address: str, exported: Path, tmp_path: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with suppress(OSError):
            ask(address, "/ping")
            break
        time.sleep(0.2)
    question = {
        "dataframe_records": [{"prompt": "abc"}, {"prompt": "d"}],
        "params": {"num_tokens": 9, "temperature": 0.7, "seed": 4},
    }
    answer = json.loads(ask(address, "/invocations", question))
    expected = generate(load_model(str(exported)), ["abc", "d"], 9, temperature=0.7, seed=4)
    assert answer["predictions"] == expected
    _, trainings = search(f"sqlite:///{tmp_path}/runs/mlflow.db", "reformer_dist")
    assert trainings == [], "an export is no training"
