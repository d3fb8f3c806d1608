"""MLflow as people leave it: what was deleted, refuses, is old, or is begun twice; and where a run says it comes from."""

import http.server
import sqlite3
import subprocess
import sys
import threading
from importlib.metadata import version
from pathlib import Path

import pytest
from mlflow import MlflowClient

from reformer_dist.errors import ConfigError
from reformer_dist.tracking import processes, runs
from reformer_dist.tracking.place import check_reachable
from tests.tracking.test_tracking import make_config


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("storage")


def test_a_run_that_was_deleted_is_begun_anew(storage: Path) -> None:
    config, told = make_config(storage), list[str]()
    first = runs.start(config)
    first.finish()
    client = MlflowClient(first.uri)
    client.delete_run(first.id)
    second = runs.start(config, run_id=first.id, tell=told.append)
    second.finish()
    assert second.id != first.id
    assert told == [f"MLflow no longer has run {first.id}; a new one goes on"]
    assert client.get_run(first.id).info.lifecycle_stage == "deleted"


def test_a_deleted_experiment_is_one_line(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    run = runs.start(config)
    run.finish()
    MlflowClient(run.uri).delete_experiment(run.experiment_id)
    with pytest.raises(
        ConfigError, match=r"^tracking\.experiment = reformer_dist was deleted at .*; another name works"
    ):
        runs.start(config)
    runs.start(make_config(tmp_path, **{"tracking.experiment": "another"})).finish()


def test_runs_of_drivers_that_are_gone_are_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(tmp_path)
    mine = processes.this_process()
    host, boot, number, started = mine.split()
    drivers = {
        "gone": f"{host} {boot} {number} 1",
        "of another boot": f"{host} 0000 {number} {started}",
        "alive": mine,
        "elsewhere": f"other {boot} {number} 1",
    }
    made = {}
    for name, driver in drivers.items():
        monkeypatch.setattr(runs, "this_process", lambda driver=driver: driver)
        monkeypatch.setattr(runs, "is_gone", lambda driver: False)
        made[name] = runs.start(config)
    monkeypatch.undo()
    told = list[str]()
    last = runs.start(config, tell=told.append)
    client = MlflowClient(last.uri)
    statuses = {name: client.get_run(run.id).info.status for name, run in made.items()}
    assert statuses == {"gone": "KILLED", "of another boot": "KILLED", "alive": "RUNNING", "elsewhere": "RUNNING"}
    assert len(told) == 2
    assert all(line.endswith("was left open by a driver that is gone: marked as KILLED") for line in told)
    again = runs.start(config, run_id=made["gone"].id)
    assert client.get_run(again.id).data.tags[runs.DRIVER] == mine


def test_a_process_that_ended_is_gone() -> None:
    script = "from reformer_dist.tracking import processes; print(processes.this_process())"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    name, _ = process.communicate()
    assert processes.is_gone(name.strip())
    assert not processes.is_gone(processes.this_process())


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("localhost:5000", "does not say how it is spoken to; http://localhost:5000 works"),
        ("mlflow.example.org:80/path", "does not say how it is spoken to; http://mlflow.example.org:80/path works"),
        ("./mlruns", "is a folder, where MLflow keeps no runs any more; sqlite:///mlflow.db works"),
        ("file:///tmp/mlruns", "is a folder, where MLflow keeps no runs any more"),
        ("http://localhost:port", "Port could not be cast to integer value as 'port'; http://localhost:5000 works"),
        ("http://localhost:99999", "Port out of range 0-65535; http://localhost:5000 works"),
        ("sqlite://", "names no file; sqlite:///mlflow.db works"),
        ("sqlite:////proc", "is a folder; sqlite:////proc/mlflow.db works"),
        ("sqlite:////proc/none/mlflow.db", "cannot be written"),
    ],
)
def test_a_place_that_is_none_is_one_line(uri: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda place, mode: not str(place).startswith("/proc"))
    with pytest.raises(ConfigError) as refused:
        check_reachable(uri)
    (line,) = refused.value.problems
    assert line.startswith(f"tracking.uri = {uri}")
    assert said in line


def test_a_database_of_an_old_schema_is_one_line(tmp_path: Path) -> None:
    run = runs.start(make_config(tmp_path))
    run.finish()
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        connection.execute("update alembic_version set version_num = '451aebb31d03'")
    connection.close()
    script = f"from reformer_dist.tracking.client import connect; connect({run.uri!r})"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "ConfigError: tracking.uri = sqlite:///" in ended.stderr
    assert "mlflow db upgrade sqlite:///" in ended.stderr


def test_two_trainings_make_one_new_database(tmp_path: Path) -> None:
    script = (
        "import sys; from reformer_dist.config import load_config; from reformer_dist.tracking import runs;"
        f"run = runs.start(load_config(None, {{'train.storage': {str(tmp_path)!r}}}));"
        "run.finish(); print(run.experiment_id)"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    ended = [process.communicate() for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], ended
    assert len({out for out, _ in ended}) == 1
    assert not (tmp_path / "mlflow.db.lock").exists()


def test_a_run_tells_where_it_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = tmp_path / "code"
    repository.mkdir()
    (repository / "a.py").write_text("1")
    git = ["git", "-C", str(repository), "-c", "user.name=x", "-c", "user.email=x@y"]
    for command in (["init", "-q"], ["add", "a.py"], ["commit", "-qm", "one"]):
        subprocess.run([*git, *command], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    monkeypatch.chdir(repository)
    monkeypatch.setattr(sys, "argv", ["jobs/train.py", "--train.run_name", "two words"])
    tags = []
    for text in ("1", "2"):
        (repository / "a.py").write_text(text)
        run = runs.start(make_config(tmp_path))
        run.log_data("texts/*.txt", "f00d" * 8, "/runs/corpora/f00d")
        run.finish()
        found = MlflowClient(run.uri).get_run(run.id)
        tags.append(found.data.tags)
        (given,) = found.inputs.dataset_inputs
        assert (given.dataset.name, given.dataset.digest) == ("texts/*.txt", "f00d" * 8)
    assert [each["mlflow.source.git.dirty"] for each in tags] == ["false", "true"]
    assert tags[0]["mlflow.source.git.commit"] == commit
    assert tags[0]["reformer_dist.command"] == "jobs/train.py --train.run_name 'two words'"
    assert f"torch {version('torch')}" in tags[0]["reformer_dist.environment"]
    experiment = MlflowClient(run.uri).get_experiment(run.experiment_id)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    run = runs.start(make_config(tmp_path))
    assert "mlflow.source.git.commit" not in MlflowClient(run.uri).get_run(run.id).data.tags


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            401,
            "; MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, say who you are",
        ),
        (403, "; this user may not write there"),
        (404, "; MLflow's server does not answer there, or the address lacks a path"),
    ],
)
def test_a_server_that_refuses_is_one_line(code: int, said: str, tmp_path: Path) -> None:
    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        config = make_config(tmp_path, **{"tracking.uri": f"http://127.0.0.1:{server.server_port}"})
        with pytest.raises(ConfigError) as refused:
            runs.start(config)
        server.shutdown()
    (line,) = refused.value.problems
    assert line.startswith(f"tracking.uri = http://127.0.0.1:{server.server_port}: API request")
    assert line.endswith(said)
