"""MLflow: the only file that imports it.

In: a tracking URI. Out: MLflow's client of the store, one that waits for a server that is away, and what it finds there.
MLflow is imported when the first client is made, which takes seconds.
"""

import fcntl
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from reformer_dist.config import Config
from reformer_dist.errors import ConfigError
from reformer_dist.storage.patience import Patient
from reformer_dist.storage.stores import one_line, open_store
from reformer_dist.tracking.place import check_reachable, database_file

# Read by MLflow when it sends or fetches.
_SETTINGS = {
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # waiting is ours; with its seven a call is silent for four minutes
}
for _name, _value in _SETTINGS.items():
    os.environ.setdefault(_name, _value)

MAX_BATCH = 1000
"""Metrics that MLflow takes in one call; parameters are a tenth."""

KIND = "reformer_dist.kind"
"""Tag of a run that is no training: what it is."""

AWAY = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "DEADLINE_EXCEEDED")
"""MLflow's codes of errors that pass; no connection at all is its first."""


_NOTE = """What to compare first, under *Columns* of the table of runs: metrics `validation/bits_per_token` (of bytes: bits
a byte), `train/tokens_per_second`, `memory/worker_0_mib`; parameters `model.layers`, `model.num_hashes`,
`data.sequence_length`, `optimizer.learning_rate`. Where a run comes from is in its tags: `reformer_dist.command`,
`reformer_dist.environment`.
"""
_TRAINING = {
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.experiment.primaryMetric.name": "validation/bits_per_token",
    "mlflow.note.content": _NOTE,
}
"""Opens an experiment in the view of trainings, not of chats, and says what its table should show."""
_HELP = {
    "error code 401": "; MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, say who you are",
    "error code 403": "; this user may not write there",
    "error code 404": "; MLflow's server does not answer there, or the address lacks a path",
    "out-of-date database schema": "; mlflow db upgrade {uri} brings it up to date (keep a copy)",
    "readonly database": "; sqlite:////tmp/mlflow.db works",
}
"""What helps, by a sign of what MLflow says."""


def connect(uri: str) -> Any:
    """MLflow's client of a store, which says nothing on the terminal; a new SQLite database is made by one process.

    Raises:
        ConfigError: a store that MLflow cannot open.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    for library in ("mlflow", "alembic"):
        logging.getLogger(library).setLevel(logging.ERROR)
    try:
        with _alone(uri):
            client = MlflowClient(uri)
            client.search_experiments(max_results=1)  # opens the database
            return client
    except MlflowException as error:
        raise ConfigError(refusal(uri, error)) from None


@contextmanager
def _alone(uri: str) -> Iterator[None]:
    """Whoever else makes the same SQLite database waits; MLflow's own making of tables knows no second process."""
    file = database_file(uri)
    if file is None or file.exists():
        yield
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{file}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    with suppress(OSError):
        os.unlink(f"{file}.lock")


def patient(client: Any, uri: str, tell: Callable[[str], object]) -> Patient:
    """A client of the store at `uri` that waits while the store is away; `tell` takes a line then, and when it is back."""
    from mlflow.exceptions import MlflowException

    return Patient(client, (MlflowException, OSError), _is_away, f"MLflow at {uri}", tell)


def _is_away(error: Any) -> bool:
    """Whether the store cannot be reached or is busy, and does not refuse."""
    if isinstance(error, OSError):  # of a server of artifacts; those of this machine's disk have a number
        response = getattr(error, "response", None)
        return error.errno is None and (response is None or response.status_code >= 500)
    return error.error_code in AWAY


def point(name: str, value: float, milliseconds: int, step: int) -> Any:
    """A value of a metric, as `log_batch` takes it."""
    from mlflow.entities import Metric

    return Metric(name, value, milliseconds, step)


def data_set(name: str, digest: str, source: str) -> Any:
    """What a run is trained on, as `log_inputs` takes it."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    about = Dataset(name=name[:500], digest=digest[:36], source_type="local", source=source)
    return DatasetInput(about, [InputTag("mlflow.data.context", "training")])


def log_parameters(client: Any, run_id: str, values: Mapping[str, object]) -> None:
    """Give a run parameters, as many at a time as MLflow takes."""
    from mlflow.entities import Param

    parameters = [Param(name, str(value)) for name, value in values.items()]
    for first in range(0, len(parameters), MAX_BATCH // 10):
        client.log_batch(run_id, params=parameters[first : first + MAX_BATCH // 10])


def find_run(client: Any, run_id: str) -> Any | None:
    """A run as MLflow has it, None if it no longer has it, or as one that was deleted."""
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_run(run_id)
        return None if found.info.lifecycle_stage == "deleted" else found
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def find_experiment(client: Any, uri: str, config: Config) -> str:
    """The id of the configuration's experiment, which is made if it is not there.

    Raises:
        ConfigError: the store at `uri` refuses, or the experiment was deleted there.
    """
    from mlflow.exceptions import MlflowException

    try:
        return _experiment_id(client, config, uri)
    except MlflowException as error:
        raise ConfigError(refusal(uri, error)) from None


def refusal(uri: str, error: Exception) -> str:
    """The line about what MLflow's store refuses, and what helps where that is known."""
    text = " ".join(str(error).split())
    hint = next((help_text for sign, help_text in _HELP.items() if sign in text), "")
    return f"tracking.uri = {uri}: {text[:300]}{hint.format(uri=uri)}"


def read_history(uri: str, run_id: str, name: str) -> list[tuple[int, float]]:
    """All (step, value) of a metric of any run, as they were logged; a step that was logged twice is there twice."""
    return sorted((point.step, point.value) for point in connect(uri).get_metric_history(run_id, name))


def search(uri: str, experiment: str, filter_text: str = "") -> tuple[Any, list[Any]]:
    """MLflow's client of a store, and the trainings and sweeps of an experiment as MLflow has them, oldest first.

    Raises:
        ConfigError: no such experiment, or a filter that MLflow does not understand.
    """
    check_reachable(uri)
    from mlflow.exceptions import MlflowException

    client = connect(uri)
    found = client.get_experiment_by_name(experiment)
    if found is None:
        raise ConfigError(f"experiment {experiment}: there is none at {uri}")
    try:
        runs = client.search_runs([found.experiment_id], filter_text, order_by=["attributes.start_time"])
    except MlflowException as error:
        raise ConfigError(f"filter {filter_text}: {one_line(error)}") from None
    return client, [run for run in runs if KIND not in run.data.tags]


def _experiment_id(client: Any, config: Config, uri: str) -> str:
    """The experiment's id, made if it is not there; with the default SQLite file, artifacts lie beside it."""
    from mlflow.exceptions import MlflowException

    name = config.tracking.experiment
    if found := client.get_experiment_by_name(name):
        if found.lifecycle_stage == "deleted":
            raise ConfigError(
                f"tracking.experiment = {name} was deleted at {uri}; another name works, or restore it:"
                f" MLFLOW_TRACKING_URI={uri} mlflow experiments restore --experiment-id {found.experiment_id}"
            )
        return str(found.experiment_id)
    artifacts = None
    if config.tracking.uri is None:
        artifacts = Path(open_store(config.train.storage).child("mlflow_artifacts")).as_uri()
    try:
        return str(client.create_experiment(name, artifact_location=artifacts, tags=_TRAINING))
    except MlflowException:
        found = client.get_experiment_by_name(name)  # another process may have made it in between
        if found is None:
            raise
        return str(found.experiment_id)
