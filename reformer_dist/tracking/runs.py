"""MLflow: the only file that imports it.

In: a configuration, metrics by step, texts and pictures. Out: a run in an SQLite file under the storage folder or on a
server. One process of a training logs, its driver; a step that was logged is not logged again, so a training that went
back to a checkpoint leaves one point for each step. Metrics are sent by a thread beside the training, which goes on while
a server is away; all else waits for the server (see patience.py).
"""

import logging
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from reformer_dist.config import Config, flatten
from reformer_dist.errors import ConfigError, JobStopped
from reformer_dist.storage.patience import Patient, ServerAway
from reformer_dist.storage.stores import one_line, open_store
from reformer_dist.tracking.place import check_reachable, tracking_uri

# Read by MLflow when it sends or fetches.
_SETTINGS = {
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # waiting is ours; with its seven a call is silent for four minutes
}
for _name, _value in _SETTINGS.items():
    os.environ.setdefault(_name, _value)

FLUSH_SECONDS = 3.0
"""Metrics reach MLflow at most this much later, while it answers."""
MAX_BATCH = 1000
"""Metrics that MLflow takes in one call; parameters are a tenth."""

STOPPED_EARLY = "stopped_early"
"""Tag of a run that a sweep ended early: the step at which."""

AWAY = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "DEADLINE_EXCEEDED")
"""MLflow's codes of errors that pass; no connection at all is its first."""

Status = Literal["FINISHED", "FAILED", "KILLED"]


@dataclass
class Run:
    """A run of MLflow that is being written; `start` and `Experiment.start` make one.

    As a context manager it closes the run at the block's end, with the status that the block's end tells.

    Attributes:
        id: MLflow's id of the run.
        uri: tracking URI.
        experiment_id: MLflow's id of the experiment.
    """

    id: str
    uri: str
    experiment_id: str
    _client: Patient
    _points: list[Any] = field(default_factory=list)
    _last_steps: dict[str, int] = field(default_factory=dict)
    _last_flush: float = field(default_factory=time.monotonic)
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))
    _sending: Future[None] | None = None
    _closed: bool = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.finish("FINISHED")
            return
        self._client.give_up()  # what ended the block is to be told now
        with suppress(ServerAway):
            self.finish("KILLED" if issubclass(kind, KeyboardInterrupt | JobStopped) else "FAILED")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Buffer one point of each metric, except those logged for this step or a later one before."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        for name, value in metrics.items():
            if step > self.last_step(name):
                self._points.append(Metric(name, value, now, step))
                self._last_steps[name] = step
        idle = self._sending is None or self._sending.done()
        if idle and time.monotonic() - self._last_flush > FLUSH_SECONDS:
            self._start_sending()

    def flush(self) -> None:
        """Send what is buffered and wait until MLflow has it.

        Raises:
            ServerAway: MLflow has not answered for too long.
        """
        self._start_sending().result()

    def _start_sending(self) -> Future[None]:
        """Let the thread send what is buffered, after what it sends already; a refusal is raised here."""
        if self._sending is not None:
            with suppress(ServerAway):  # what it had is still buffered
                self._sending.result()
        self._last_flush = time.monotonic()
        self._sending = self._thread.submit(self._send)
        return self._sending

    def _send(self) -> None:
        while self._points:
            batch = self._points[:MAX_BATCH]
            self._client.log_batch(self.id, metrics=batch)
            del self._points[: len(batch)]

    def history(self, name: str, run_id: str | None = None) -> list[tuple[int, float]]:
        """All (step, value) of a metric, in order of step, from before a resumption too; of any run of the same store."""
        self.flush()
        return sorted((p.step, p.value) for p in self._client.get_metric_history(run_id or self.id, name))

    def last_metrics(self) -> dict[str, float]:
        """The last value of every metric."""
        self.flush()
        return dict(self._client.get_run(self.id).data.metrics)

    def log_text(self, name: str, text: str) -> None:
        """Keep a text as an artifact called `name`."""
        self._client.log_text(self.id, text, name)

    def log_figure(self, name: str, figure: Any) -> None:
        """Keep a matplotlib Figure as an artifact called `name`; the suffix decides the format."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            figure.savefig(path)
            self._client.log_artifact(self.id, str(path))

    def log_folder(self, folder: Path) -> None:
        """Keep the files of a folder as artifacts."""
        self._client.log_artifacts(self.id, str(folder))

    def close_other(self, run_id: str, status: Status, stopped_at: int | None = None) -> None:
        """Close another run of the same store if it was left open; tag it as stopped early, after so many steps."""
        if stopped_at is not None:
            self._client.set_tag(run_id, STOPPED_EARLY, str(stopped_at))
        if self._client.get_run(run_id).info.status == "RUNNING":
            self._client.set_terminated(run_id, status)

    def close_children(self) -> None:
        """Mark those of this run's children that were left open as killed."""
        mine = f"tags.`mlflow.parentRunId` = '{self.id}' and attributes.status = 'RUNNING'"
        for child in self._client.search_runs([self.experiment_id], mine, max_results=MAX_BATCH):
            self._client.set_terminated(child.info.run_id, "KILLED")

    def finish(self, status: Status = "FINISHED") -> None:
        """Send what is buffered and close the run, unless it is closed.

        Raises:
            ServerAway: MLflow has not answered for too long.
        """
        if self._closed:
            return
        try:
            self.flush()
            self._client.set_terminated(self.id, status)
            self._closed = True
        finally:
            self._client.give_up()  # or the thread would hold up the end of a job that is interrupted here

    def url_hint(self) -> str:
        """How to look at the run: a server's address of it, or the command that starts the UI."""
        if self.uri.startswith("http"):
            return f"{self.uri.rstrip('/')}/#/experiments/{self.experiment_id}/runs/{self.id}"
        program = Path(sys.executable).parent / "mlflow"
        here = Path.cwd()
        command = program.relative_to(here) if program.is_relative_to(here) else program
        return f"{command} ui --backend-store-uri {self.uri}"

    def last_step(self, name: str) -> int:
        """The last step that has a point of a metric, -1 without one."""
        return self._last_steps.get(name, -1)


@dataclass(frozen=True)
class Experiment:
    """An experiment of a tracking store that answers; `open_experiment` makes one."""

    id: str
    uri: str
    _client: Any
    _tell: Callable[[str], object]

    def start(self, config: Config, *, parent_run: str | None = None, run_id: str | None = None) -> Run:
        """Begin a run, or go on with one.

        Args:
            config: every value becomes a parameter, by dotted name, and so does `derived`; `train.run_name` is the
                run's name.
            parent_run: id of the run that this one is part of, such as a sweep.
            run_id: id of a run to go on with; one that MLflow no longer has is begun anew.
        """
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException

        client = Patient(self._client, (MlflowException, OSError), _is_away, f"MLflow at {self.uri}", self._tell)
        run = self._reopen(client, run_id) if run_id else None
        if run is not None:
            return run
        tags = {"mlflow.parentRunId": parent_run} if parent_run else {}
        new_id = client.create_run(self.id, tags=tags, run_name=config.train.run_name).info.run_id
        values = {**dict(flatten(config.model_dump(mode="json"))), **derived(config)}
        parameters = [Param(name, str(value)) for name, value in values.items()]
        for first in range(0, len(parameters), MAX_BATCH // 10):
            client.log_batch(new_id, params=parameters[first : first + MAX_BATCH // 10])
        return Run(new_id, self.uri, self.id, client)

    def _reopen(self, client: Patient, run_id: str) -> Run | None:
        from mlflow.exceptions import MlflowException

        try:
            found = client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        client.update_run(run_id, status="RUNNING")
        run = Run(run_id, self.uri, found.info.experiment_id, client)
        for name in found.data.metrics:
            run._last_steps[name] = run.history(name)[-1][0]
        return run


def derived(config: Config) -> dict[str, int]:
    """What a configuration leads to, as plain numbers, which MLflow's plots can order.

    `derived.num_buckets`: LSH buckets of a round, chosen or given, factors multiplied. `derived.tokens_a_step`.
    """
    return {
        "derived.num_buckets": math.prod(config.model.bucket_factors),
        "derived.tokens_a_step": config.train.batch_size * config.data.sequence_length,
    }


def open_experiment(config: Config, tell: Callable[[str], object] = print) -> Experiment:
    """Connect to the tracking store and find the experiment, or make it (an SQLite file too, in some seconds).

    Args:
        config: the configuration.
        tell: takes a line when the server goes away later on, and one when it is back.

    Raises:
        ConfigError: the tracking server does not answer, or refuses.
    """
    uri = tracking_uri(config)
    check_reachable(uri)
    from mlflow.exceptions import MlflowException

    client = _quiet_client(uri)
    try:
        experiment_id = _experiment_id(client, config)
    except MlflowException as error:
        raise ConfigError(f"tracking.uri = {uri}: {' '.join(str(error).split())}") from None
    return Experiment(experiment_id, uri, client, tell)


def _quiet_client(uri: str) -> Any:
    from mlflow import MlflowClient

    for library in ("mlflow", "alembic"):
        logging.getLogger(library).setLevel(logging.ERROR)
    return MlflowClient(uri)


def _is_away(error: Any) -> bool:
    """Whether the store cannot be reached or is busy, and does not refuse."""
    if isinstance(error, OSError):  # of a server of artifacts; those of this machine's disk have a number
        response = getattr(error, "response", None)
        return error.errno is None and (response is None or response.status_code >= 500)
    return error.error_code in AWAY


def read_history(uri: str, run_id: str, name: str) -> list[tuple[int, float]]:
    """All (step, value) of a metric of any run, as they were logged; a step that was logged twice is there twice."""
    return sorted((point.step, point.value) for point in _quiet_client(uri).get_metric_history(run_id, name))


def search(uri: str, experiment: str, filter_text: str = "") -> tuple[Any, list[Any]]:
    """MLflow's client of a store, and the runs of an experiment as MLflow has them, oldest first.

    Raises:
        ConfigError: no such experiment, or a filter that MLflow does not understand.
    """
    check_reachable(uri)
    from mlflow.exceptions import MlflowException

    client = _quiet_client(uri)
    found = client.get_experiment_by_name(experiment)
    if found is None:
        raise ConfigError(f"experiment {experiment}: there is none at {uri}")
    try:
        runs = client.search_runs([found.experiment_id], filter_text, order_by=["attributes.start_time"])
    except MlflowException as error:
        raise ConfigError(f"filter {filter_text}: {one_line(error)}") from None
    return client, list(runs)


def start(
    config: Config,
    *,
    parent_run: str | None = None,
    run_id: str | None = None,
    tell: Callable[[str], object] = print,
) -> Run:
    """`open_experiment` and `Experiment.start` in one."""
    return open_experiment(config, tell).start(config, parent_run=parent_run, run_id=run_id)


def _experiment_id(client: Any, config: Config) -> str:
    """The experiment's id, made if it is not there; with the default SQLite file, artifacts lie beside it."""
    from mlflow.exceptions import MlflowException

    name = config.tracking.experiment
    if found := client.get_experiment_by_name(name):
        return str(found.experiment_id)
    artifacts = None
    if config.tracking.uri is None:
        artifacts = Path(open_store(config.train.storage).child("mlflow_artifacts")).as_uri()
    try:
        return str(client.create_experiment(name, artifact_location=artifacts))
    except MlflowException:
        found = client.get_experiment_by_name(name)  # another process may have made it in between
        if found is None:
            raise
        return str(found.experiment_id)
