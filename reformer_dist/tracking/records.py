"""Runs as MLflow has them, whole: what jobs/compare.py and jobs/tune.py --suggest look at.

In: where runs are and which. Out: a `RunRecord` for each, with its parameters, curves and sample.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from reformer_dist.errors import ConfigError
from reformer_dist.tracking.client import search


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
    client, runs = search(uri, experiment, filter_text)
    chosen = [run for name in wanted for run in _named(runs, name)] if wanted else runs
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
