"""MLflow: what a run holds, and that steps are logged once whatever happens to the training."""

import dataclasses
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from reformer_dist.config import Config, load_config
from reformer_dist.errors import ConfigError, JobFailed, JobStopped
from reformer_dist.storage import patience
from reformer_dist.tracking import runs
from reformer_dist.tracking.client import read_history
from reformer_dist.tracking.place import tracking_uri


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("storage")


def make_config(storage: Path, **changes: object) -> Config:
    return load_config(None, {"train.storage": str(storage), **changes})


def test_numbers_of_an_encoder_stand_beside_the_decoders(storage: Path) -> None:
    sizes = {
        "model.max_length": 4096,
        "model.max_source_length": 1 << 15,
        "data.source_length": 8192,
        "train.batch_size": 2,
    }
    assert runs.derived(make_config(storage, **{"model.encoder_layers": "lsh", **sizes})) == {
        "derived.num_buckets": 128,
        "derived.tokens_a_step": 8192,
        "derived.source_num_buckets": 1024,
        "derived.source_tokens_a_step": 16384,
    }


def test_run_holds_the_whole_configuration(storage: Path) -> None:
    config = make_config(storage, **{"model.layers": "local,lsh", "train.run_name": "mine"})
    parent = runs.start(config)
    run = runs.start(config, parent_run=parent.id)
    run.finish()
    found = MlflowClient(run.uri).get_run(run.id)
    assert found.data.params["model.layers"] == "['local', 'lsh']"
    assert found.data.params["optimizer.learning_rate"] == "0.001"
    assert (found.data.params["model.num_buckets"], found.data.params["derived.num_buckets"]) == ("None", "128")
    assert len(found.data.params) > 60
    assert not any(name.startswith("derived.source") for name in found.data.params)
    assert found.data.tags["mlflow.parentRunId"] == parent.id
    assert (found.info.run_name, found.info.status) == ("mine", "FINISHED")
    assert found.info.artifact_uri.startswith(f"file://{storage}")


def test_runs_that_nobody_goes_on_with_are_closed(storage: Path) -> None:
    config = make_config(storage)
    sweep, other = runs.start(config), runs.start(config)
    ended, left = (runs.start(config, parent_run=sweep.id) for _ in range(2))
    ended.finish()
    foreign = runs.start(config, parent_run=other.id)
    sweep.close_children()
    client = MlflowClient(sweep.uri)
    statuses = [client.get_run(run.id).info.status for run in (ended, left, sweep, foreign)]
    assert statuses == ["FINISHED", "KILLED", "RUNNING", "RUNNING"]


def test_each_step_is_logged_once(storage: Path) -> None:
    """A worker is lost at step 1500 and training goes back to 1000; then the job itself is started again from 1200."""
    config = make_config(storage)
    run = runs.start(config)
    for step in (*range(1, 1501), *range(1001, 1801)):
        run.log(step, {"train/loss": float(step)})
    run.finish("FAILED")
    assert MlflowClient(run.uri).get_run(run.id).info.status == "FAILED"
    again = runs.start(config, run_id=run.id)
    for step in range(1201, 2001):
        again.log(step, {"train/loss": float(step), "validation/loss": 1.0})
    again.finish()
    assert again.id == run.id
    assert again.history("train/loss") == [(step, float(step)) for step in range(1, 2001)]
    assert [step for step, _ in again.history("validation/loss")] == list(range(1201, 2001))
    assert again.last_metrics()["train/loss"] == 2000.0


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, "FINISHED"),
        (KeyboardInterrupt(), "KILLED"),
        (JobStopped("stopped", 143), "KILLED"),
        (JobFailed("failed"), "FAILED"),
        (AssertionError(), "FAILED"),
    ],
)
def test_the_status_is_that_of_the_end(error: BaseException | None, status: str, storage: Path) -> None:
    run = runs.start(make_config(storage))
    with suppress(BaseException), run:
        run.log(1, {"train/loss": 0.5})
        if error is not None:
            raise error
    found = MlflowClient(run.uri).get_run(run.id)
    assert found.info.status == status
    assert found.data.metrics == {"train/loss": 0.5}


def test_a_vanished_run_is_begun_anew(storage: Path) -> None:
    run = runs.start(make_config(storage), run_id="0123456789abcdef0123456789abcdef")
    run.finish()
    assert run.id != "0123456789abcdef0123456789abcdef"


def test_unreachable_server_is_one_quick_line(storage: Path) -> None:
    start = time.monotonic()
    with pytest.raises(ConfigError, match=r"tracking\.uri = http://127\.0\.0\.1:9 does not answer") as caught:
        runs.start(make_config(storage, **{"tracking.uri": "http://127.0.0.1:9"}))
    assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 10


class Flaky:
    """A client whose server is away at some of its calls, by their number from 1."""

    def __init__(self, client: MlflowClient, away: Callable[[int], bool]) -> None:
        self._client, self._away, self.num_calls = client, away, 0

    def log_batch(self, *arguments: Any, **options: Any) -> None:
        self.num_calls += 1
        if self._away(self.num_calls):
            raise MlflowException("connection refused")
        self._client.log_batch(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


def flaky_run(storage: Path, away: Callable[[int], bool], lines: list[str]) -> tuple[runs.Run, Flaky]:
    """A run whose metrics go through a client that is away at some calls, and what it tells."""
    experiment = runs.open_experiment(make_config(storage), lines.append)
    run = experiment.start(make_config(storage))
    client = Flaky(MlflowClient(run.uri), away)
    return dataclasses.replace(experiment, _client=client).start(make_config(storage), run_id=run.id), client


def test_a_server_that_goes_away_loses_nothing_and_holds_nothing_up(
    storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "FLUSH_SECONDS", 0.0)
    back, lines = threading.Event(), list[str]()
    run, client = flaky_run(storage, lambda call: call > 1 and not back.is_set(), lines)
    run.log(1, {"train/loss": 1.0})
    run.flush()
    for step in range(2, 101):
        run.log(step, {"train/loss": float(step)})
        while not lines:
            time.sleep(0.01)
    assert read_history(run.uri, run.id, "train/loss") == [(1, 1.0)]
    assert len(lines) == 1, "told once, while logging went on"
    assert "does not answer" in lines[0]
    back.set()
    run.finish()
    assert read_history(run.uri, run.id, "train/loss") == [(step, float(step)) for step in range(1, 101)]
    assert client.num_calls < 20
    assert len(lines) == 2
    assert "answers again" in lines[1]


def test_a_server_that_stays_away_is_given_up(storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PATIENCE_SECONDS", 0.1)
    run, _ = flaky_run(storage, lambda call: True, [])
    run.log(1, {"train/loss": 1.0})
    with pytest.raises(JobFailed, match=r"MLflow at sqlite:.* does not answer; the same command sends what it lacks"):
        run.finish()


def test_a_failure_is_told_at_once_though_the_server_is_away(storage: Path) -> None:
    run, _ = flaky_run(storage, lambda call: True, [])
    run.log(1, {"train/loss": 1.0})
    start = time.monotonic()
    with pytest.raises(ZeroDivisionError), run:
        raise ZeroDivisionError
    assert time.monotonic() - start < 5


def test_a_refusal_is_no_absence(storage: Path) -> None:
    run = runs.start(make_config(storage))
    MlflowClient(run.uri).delete_run(run.id)
    run.log(1, {"train/loss": 1.0})
    with pytest.raises(MlflowException, match="active"):
        run.flush()


def test_remote_storage_needs_a_server() -> None:
    with pytest.raises(ConfigError, match=r"tracking\.uri is not given"):
        tracking_uri(load_config(None, {"train.storage": "memory://runs"}))


def test_pictures_and_texts_are_artifacts(storage: Path) -> None:
    run = runs.start(make_config(storage))
    run.log_figure("picture.png", Figure())
    run.log_text("sample.txt", "text")
    names = {artifact.path for artifact in MlflowClient(run.uri).list_artifacts(run.id)}
    assert names == {"picture.png", "sample.txt"}
