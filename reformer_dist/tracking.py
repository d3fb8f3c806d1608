"""MLflow: the only file that imports it.

In: a configuration, metrics by step, texts and pictures. Out: a run in an SQLite file under the storage folder or on a
server. One process of a training logs, its driver; a step that was logged is not logged again, so a training that went
back to a checkpoint leaves one point for each step.
"""

import argparse
import logging
import socket
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self
from urllib.parse import urlsplit

from reformer_dist.cli import JobStopped
from reformer_dist.config import Config, ConfigError, flatten, load_config
from reformer_dist.data.stores import one_line, open_store

FLUSH_SECONDS = 3.0
"""Metrics reach MLflow at most this much later."""
CONNECT_SECONDS = 5.0
MAX_BATCH = 1000
"""Metrics that MLflow takes in one call; parameters are a tenth."""

STOPPED_EARLY = "stopped_early"
"""Tag of a run that a sweep ended early: the step at which."""

Status = Literal["FINISHED", "FAILED", "KILLED"]


def tracking_uri(config: Config) -> str:
    """Where the runs are kept: `tracking.uri`, or an SQLite file under `train.storage`.

    Raises:
        ConfigError: neither is possible, since SQLite needs a local folder.
    """
    if config.tracking.uri is not None:
        return config.tracking.uri
    store = open_store(config.train.storage)
    if not store.is_local:
        raise ConfigError(
            f"tracking.uri is not given and an SQLite file cannot lie at train.storage = {config.train.storage};"
            " a server such as http://localhost:5000 works, or a file of this machine: sqlite:////tmp/mlflow.db"
        )
    return f"sqlite:///{store.child('mlflow.db')}"


def check_reachable(uri: str) -> None:
    """Fail within seconds when a tracking server does not answer.

    Raises:
        ConfigError: nothing listens at the server's address.
    """
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https"):
        return
    address = (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
    try:
        socket.create_connection(address, timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise ConfigError(
            f"tracking.uri = {uri} does not answer ({error}); start it, or leave tracking.uri out for an SQLite file"
        ) from None


class Point(NamedTuple):
    """A value of a metric: after so many steps, at a time in milliseconds since 1970."""

    step: int
    milliseconds: int
    value: float


@dataclass(frozen=True)
class RunRecord:
    """A run as MLflow has it.

    Attributes:
        id: MLflow's id.
        name: the run's name.
        status: RUNNING, FINISHED, FAILED or KILLED.
        parameters: the configuration by dotted name.
        curves: all points of each metric, in order of step.
        sample: the sampled text, empty without one.
    """

    id: str
    name: str
    status: str
    parameters: dict[str, str]
    curves: dict[str, list[Point]]
    sample: str


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
    _client: Any
    _points: list[Any] = field(default_factory=list)
    _last_steps: dict[str, int] = field(default_factory=dict)
    _last_flush: float = field(default_factory=time.monotonic)
    _closed: bool = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.finish("FINISHED")
        else:
            self.finish("KILLED" if issubclass(kind, KeyboardInterrupt | JobStopped) else "FAILED")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Buffer one point of each metric, except those logged for this step or a later one before."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        for name, value in metrics.items():
            if step > self.last_step(name):
                self._points.append(Metric(name, value, now, step))
                self._last_steps[name] = step
        if time.monotonic() - self._last_flush > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Send what is buffered."""
        while self._points:
            self._client.log_batch(self.id, metrics=self._points[:MAX_BATCH])
            del self._points[:MAX_BATCH]
        self._last_flush = time.monotonic()

    def history(self, name: str) -> list[tuple[int, float]]:
        """All (step, value) of a metric, in order of step, from before a resumption too."""
        self.flush()
        return sorted((point.step, point.value) for point in self._client.get_metric_history(self.id, name))

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

    def finish(self, status: Status = "FINISHED") -> None:
        """Send what is buffered and close the run, unless it is closed."""
        if not self._closed:
            self.flush()
            self._client.set_terminated(self.id, status)
            self._closed = True

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

    def start(self, config: Config, *, parent_run: str | None = None, run_id: str | None = None) -> Run:
        """Begin a run, or go on with one.

        Args:
            config: every value becomes a parameter, by dotted name; `train.run_name` is the run's name.
            parent_run: id of the run that this one is part of, such as a sweep.
            run_id: id of a run to go on with; one that MLflow no longer has is begun anew.
        """
        from mlflow.entities import Param

        run = self._reopen(run_id) if run_id else None
        if run is not None:
            return run
        tags = {"mlflow.parentRunId": parent_run} if parent_run else {}
        new_id = self._client.create_run(self.id, tags=tags, run_name=config.train.run_name).info.run_id
        parameters = [Param(name, str(value)) for name, value in flatten(config.model_dump(mode="json"))]
        for first in range(0, len(parameters), MAX_BATCH // 10):
            self._client.log_batch(new_id, params=parameters[first : first + MAX_BATCH // 10])
        return Run(new_id, self.uri, self.id, self._client)

    def _reopen(self, run_id: str) -> Run | None:
        from mlflow.exceptions import MlflowException

        try:
            found = self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        self._client.update_run(run_id, status="RUNNING")
        run = Run(run_id, self.uri, found.info.experiment_id, self._client)
        for name in found.data.metrics:
            run._last_steps[name] = run.history(name)[-1][0]
        return run


def open_experiment(config: Config) -> Experiment:
    """Connect to the tracking store and find the experiment, or make it (an SQLite file too, in some seconds).

    Raises:
        ConfigError: the tracking server does not answer, or refuses.
    """
    uri = tracking_uri(config)
    check_reachable(uri)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    for library in ("mlflow", "alembic"):
        logging.getLogger(library).setLevel(logging.ERROR)
    try:
        client = MlflowClient(uri)
        return Experiment(_experiment_id(client, config), uri, client)
    except MlflowException as error:
        raise ConfigError(f"tracking.uri = {uri}: {' '.join(str(error).split())}") from None


def mark_stopped(uri: str, run_id: str, step: int) -> None:
    """Tag a run as stopped early, after so many steps; its status becomes FINISHED if it was left running."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    client.set_tag(run_id, STOPPED_EARLY, str(step))
    if client.get_run(run_id).info.status == "RUNNING":
        client.set_terminated(run_id, "FINISHED")


def read_history(uri: str, run_id: str, name: str) -> list[tuple[int, float]]:
    """All (step, value) of a metric of any run, as they were logged; a step that was logged twice is there twice."""
    from mlflow import MlflowClient

    return sorted((point.step, point.value) for point in MlflowClient(uri).get_metric_history(run_id, name))


def add_place_options(parser: argparse.ArgumentParser) -> None:
    """Let a command line say where runs are."""
    parser.add_argument("--experiment", default="reformer_dist", help="MLflow experiment (%(default)s)")
    parser.add_argument("--uri", help="MLflow's tracking URI (an SQLite file under --storage)")
    parser.add_argument("--storage", default="runs", help="train.storage of the runs (%(default)s)")


def place_of(arguments: argparse.Namespace) -> tuple[str, str]:
    """Tracking URI and experiment of a command line with those options."""
    overrides = {"train.storage": arguments.storage, "tracking.experiment": arguments.experiment}
    if arguments.uri:
        overrides["tracking.uri"] = arguments.uri
    config = load_config(None, overrides)
    return tracking_uri(config), config.tracking.experiment


def find_runs(uri: str, experiment: str, wanted: Sequence[str], filter_text: str = "") -> list[RunRecord]:
    """Read runs of an experiment, oldest first.

    Args:
        uri: tracking URI.
        experiment: its name.
        wanted: ids, beginnings of ids or names of runs, in the order of the result; empty for all.
        filter_text: MLflow's own filter.

    Raises:
        ConfigError: no such experiment or run, or a filter that MLflow does not understand.
    """
    check_reachable(uri)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    for library in ("mlflow", "alembic"):
        logging.getLogger(library).setLevel(logging.ERROR)
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    if found is None:
        raise ConfigError(f"experiment {experiment}: there is none at {uri}")
    try:
        runs = client.search_runs([found.experiment_id], filter_text, order_by=["attributes.start_time"])
    except MlflowException as error:
        raise ConfigError(f"filter {filter_text}: {one_line(error)}") from None
    chosen = [run for name in wanted for run in _named(runs, name)] if wanted else list(runs)
    if not chosen:
        raise ConfigError(f"experiment {experiment}: no run there that filter {filter_text} leaves")
    return [_record(client, run) for run in chosen]


def _named(runs: Sequence[Any], name: str) -> list[Any]:
    found = [run for run in runs if run.info.run_name == name or run.info.run_id.startswith(name)]
    if not found:
        names = ", ".join(dict.fromkeys(run.info.run_name for run in runs))
        raise ConfigError(f"run {name}: no run has that id or name; {names} work")
    return found


def _record(client: Any, run: Any) -> RunRecord:
    """Everything that is shown of a run."""
    id = run.info.run_id
    histories = {name: client.get_metric_history(id, name) for name in run.data.metrics}
    curves = {name: sorted(Point(p.step, p.timestamp, p.value) for p in points) for name, points in histories.items()}
    sample = ""
    if any(artifact.path == "sample.txt" for artifact in client.list_artifacts(id)):
        with tempfile.TemporaryDirectory() as folder:
            sample = Path(client.download_artifacts(id, "sample.txt", folder)).read_text(encoding="utf-8")
    return RunRecord(id, run.info.run_name, run.info.status, dict(run.data.params), curves, sample)


def start(config: Config, *, parent_run: str | None = None, run_id: str | None = None) -> Run:
    """`open_experiment` and `Experiment.start` in one."""
    return open_experiment(config).start(config, parent_run=parent_run, run_id=run_id)


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
