"""Runs of MLflow that are being written.

In: a configuration, metrics by step, texts and pictures. Out: a run in an SQLite file under the storage folder or on a
server. One process of a training logs, its driver; a step that was logged is not logged again, so a training that went
back to a checkpoint leaves one point for each step. Metrics are sent by a thread beside the training, which goes on while
a server is away; all else waits for the server (see storage/patience.py).
"""

import math
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
from reformer_dist.errors import JobStopped
from reformer_dist.storage.patience import Patient, ServerAway
from reformer_dist.tracking.client import (
    KIND,
    MAX_BATCH,
    connect,
    data_set,
    find_experiment,
    find_run,
    log_parameters,
    patient,
    point,
)
from reformer_dist.tracking.origin import origin
from reformer_dist.tracking.place import check_reachable, tracking_uri
from reformer_dist.tracking.processes import is_gone, this_process

FLUSH_SECONDS = 3.0
"""Metrics reach MLflow at most this much later, while it answers."""
STOPPED_EARLY = "stopped_early"
"""Tag of a run that a sweep ended early: the step at which."""

DRIVER = "reformer_dist.driver"
"""Tag of a run: the process that writes it, as `this_process` names it."""

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
        now = int(time.time() * 1000)
        for name, value in metrics.items():
            if step > self.last_step(name):
                self._points.append(point(name, value, now, step))
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

    def log_table(self, name: str, columns: Mapping[str, list[str]]) -> None:
        """Keep a table as an artifact called `name`, which MLflow shows as one; the suffix is .json."""
        self._client.log_table(self.id, dict(columns), name)

    def log_data(self, name: str, digest: str, source: str) -> None:
        """Tell which data set the run trains on: a name, the hash of its content and where it lies."""
        self._client.log_inputs(self.id, [data_set(name, digest, source)])

    def note_changes(self, step: int, changes: Mapping[str, str]) -> None:
        """Tell fields that are others from a step on: tags `changed.FIELD`, since a parameter can be given once."""
        for name, text in changes.items():
            self._client.set_tag(self.id, f"changed.{name}", f"{text}, from step {step} on")

    def log_figure(self, name: str, figure: Any) -> None:
        """Keep a matplotlib Figure as an artifact called `name`; the suffix decides the format."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            figure.savefig(path)
            self._client.log_artifact(self.id, str(path))

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

    def start(
        self,
        config: Config,
        *,
        parent_run: str | None = None,
        run_id: str | None = None,
        kind: str | None = None,
    ) -> Run:
        """Begin a run, or go on with one.

        Args:
            config: every value becomes a parameter, by dotted name, and so does `derived`; `train.run_name` is the
                run's name.
            parent_run: id of the run that this one is part of, such as a sweep.
            run_id: id of a run to go on with; one that MLflow no longer has is begun anew.
            kind: what the run is where it is no training, a tag by which those who read trainings leave it out.
        """
        client = patient(self._client, self.uri, self._tell)
        self._close_abandoned(client, run_id)
        run = self._reopen(client, run_id) if run_id else None
        if run is not None:
            return run
        if run_id:
            self._tell(f"MLflow no longer has run {run_id}; a new one goes on")
        tags = {**origin(), DRIVER: this_process()}
        tags |= {name: value for name, value in {"mlflow.parentRunId": parent_run, KIND: kind}.items() if value}
        new_id = client.create_run(self.id, tags=tags, run_name=config.train.run_name).info.run_id
        values = {**dict(flatten(config.model_dump(mode="json"))), **derived(config)}
        log_parameters(client, new_id, values)
        return Run(new_id, self.uri, self.id, client)

    def _close_abandoned(self, client: Patient, run_id: str | None) -> None:
        """Mark runs as killed whose driver on this machine is gone, as after SIGKILL; all but the one to go on with."""
        for run in client.search_runs([self.id], "attributes.status = 'RUNNING'", max_results=MAX_BATCH):
            driver = run.data.tags.get(DRIVER)
            if run.info.run_id != run_id and driver is not None and is_gone(driver):
                client.set_terminated(run.info.run_id, "KILLED")
                self._tell(f"MLflow run {run.info.run_id} was left open by a driver that is gone: marked as KILLED")

    def _reopen(self, client: Patient, run_id: str) -> Run | None:
        found = find_run(client, run_id)
        if found is None:
            return None
        client.update_run(run_id, status="RUNNING")
        client.set_tag(run_id, DRIVER, this_process())
        run = Run(run_id, self.uri, found.info.experiment_id, client)
        for name in found.data.metrics:
            run._last_steps[name] = run.history(name)[-1][0]
        return run


def derived(config: Config) -> dict[str, int]:
    """What a configuration leads to, as plain numbers, which MLflow's plots can order.

    `derived.num_buckets`: LSH buckets of a round, chosen or given, factors multiplied. `derived.tokens_a_step`. The same of
    an encoder: `derived.source_num_buckets`, which are those of cross-attention too, and `derived.source_tokens_a_step`.
    """
    found = {
        "derived.num_buckets": math.prod(config.model.bucket_factors),
        "derived.tokens_a_step": config.train.batch_size * config.data.sequence_length,
    }
    if config.model.encoder_layers:
        found["derived.source_num_buckets"] = math.prod(config.model.encoder.bucket_factors)
        found["derived.source_tokens_a_step"] = config.train.batch_size * config.data.longest_source
    return found


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
    client = connect(uri)
    return Experiment(find_experiment(client, uri, config), uri, client, tell)


def start(
    config: Config,
    *,
    parent_run: str | None = None,
    run_id: str | None = None,
    tell: Callable[[str], object] = print,
) -> Run:
    """`open_experiment` and `Experiment.start` in one."""
    return open_experiment(config, tell).start(config, parent_run=parent_run, run_id=run_id)
