"""Sweeps: the only file that imports Ray Tune.

In: a configuration with `tune.space`. Out: a training for every combination, each a child of one MLflow run.

A trial calls the same `launch` as jobs/train.py, on the driver's node, and holds no CPU while its workers train. Only as
many trials run at a time as the cluster has room for the workers of, so no trial waits for what another one holds.
"""

import csv
import io
import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from reformer_dist import tracking
from reformer_dist.cli import JobFailed
from reformer_dist.config import Config, ConfigError, field_names, flatten, load_config
from reformer_dist.data.prepare import plan_preparation
from reformer_dist.data.stores import open_store
from reformer_dist.ray_session import ray_session
from reformer_dist.training import checkpoint, checks
from reformer_dist.training.failures import one_line
from reformer_dist.training.launcher import launch

# Read by Ray Tune when it is imported or started, so this module sets them before it imports Ray Tune.
_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # MLflow has the metrics
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the job, as it ends the others
    "RAY_AIR_NEW_OUTPUT": "0",  # the new one prints a box of its own whatever `verbose` says
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # paths in the configuration may be relative
}
for _name, _value in _SETTINGS.items():
    os.environ.setdefault(_name, _value)

import ray  # noqa: E402
from ray import tune  # noqa: E402

SECTIONS = ("data", "model", "parallel", "optimizer", "train")
"""Sections whose fields can be swept."""
SCORE = "validation/bits_per_token"
SPEED = "train/tokens_per_second"


@dataclass(frozen=True)
class Trial:
    """One combination of the space.

    Attributes:
        values: the swept fields, by dotted name.
        config: the whole configuration; None where the values do not go together.
        problem: why it is impossible or why it failed; empty if it finished.
        run_id: its MLflow run, once it has finished.
        metrics: its last metrics.
        checkpoint: its last checkpoint.
    """

    values: Mapping[str, Any]
    config: Config | None = None
    problem: str = ""
    run_id: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    checkpoint: str = ""

    @property
    def name(self) -> str:
        """The swept fields and their values in one line."""
        return ", ".join(f"{field.rpartition('.')[2]} {value}" for field, value in self.values.items())

    @property
    def peak_memory(self) -> float:
        """Peak memory in MiB of the worker that needed most."""
        return max(value for name, value in self.metrics.items() if name.startswith("memory/"))


@dataclass(frozen=True)
class Sweep:
    """What a sweep leaves.

    Attributes:
        trials: the finished ones, best first by bits a token on held-out documents, then those with a problem.
        run_id: the MLflow run whose children are the trials' runs.
        tracking_uri: where MLflow keeps them.
        url_hint: how to look at them.
    """

    trials: tuple[Trial, ...]
    run_id: str
    tracking_uri: str
    url_hint: str


def plan(config: Config) -> list[Trial]:
    """Every combination of `tune.space`, in order; those that cannot be trained say why.

    Raises:
        ConfigError: an empty space, a field that does not exist or cannot be swept, or no combination that is possible.
    """
    space = config.tune.space
    _check_space(space)
    # A number that no earlier sweep of this name has: its trials start anew, and an earlier one's stay.
    number = checkpoint.new_folder(config.train.storage, config.train.run_name).rpartition("/")[2]
    base = dict(flatten(config.model_dump(exclude_unset=True)))
    trials = []
    for index, choice in enumerate(itertools.product(*space.values())):
        values = dict(zip(space, choice, strict=True))
        name = f"{config.train.run_name}-{number}-{index:02d}"
        try:
            trial = Trial(values, load_config(None, {**base, **values, "train.run_name": name}))
        except ConfigError as error:
            trial = Trial(values, problem=str(error))
        trials.append(trial)
    return _possible(trials, checks.check_config)


def sweep(config: Config, report: Callable[[str], None] = print) -> Sweep:
    """Train every combination of `tune.space`; one that fails does not stop the others.

    Args:
        config: the configuration that the trials share.
        report: takes lines of progress.

    Raises:
        ConfigError: a mistake of the user, found before a worker is taken.
    """
    trials = plan(config)
    uri = tracking.tracking_uri(config)
    tracking.check_reachable(uri)
    if not (ray.is_initialized() or "RAY_ADDRESS" in os.environ):
        trials = _possible(trials, checks.check_machine)
    with ray_session():
        trials = _possible(trials, lambda c: checks.check_cluster(c, ray.cluster_resources()))
        for trial in trials:
            if trial.config is None:
                report(f"left out: {trial.name}: {trial.problem}")
        for data in dict.fromkeys(trial.config.data for trial in trials if trial.config is not None):
            plan_preparation(data, config.train.storage).run(report)
        with tracking.start(config) as run:  # makes an SQLite store before several trials could try to at once
            outcomes = ranked(_run(config, trials, run.id, report))
            run.log_text("trials.csv", _csv(outcomes))
            if all(trial.problem for trial in outcomes):
                run.finish("FAILED")
    return Sweep(outcomes, run.id, uri, run.url_hint())


def room(configs: Sequence[Config], resources: Mapping[str, float]) -> int:
    """Trials whose workers fit a cluster's CPUs and GPUs at the same time, at least one."""
    workers = max(config.train.max_workers for config in configs)
    cpus = int(resources.get("CPU", 1.0))
    fits = cpus // min(workers, cpus)
    if any(config.train.use_gpu for config in configs):
        fits = min(fits, int(resources.get("GPU", 0.0)) // workers)
    return max(1, fits)


def ranked(trials: Iterable[Trial]) -> tuple[Trial, ...]:
    """The finished trials, fewest bits a token on held-out documents first, then the failed and the impossible ones."""
    return tuple(sorted(trials, key=lambda t: (t.config is None, bool(t.problem), t.metrics.get(SCORE, 0.0))))


def _check_space(space: Mapping[str, Sequence[Any]]) -> None:
    example = '{"model.num_hashes": [1, 4]} works'
    if not space:
        raise ConfigError(f"tune.space = {{}} names no field; {example}")
    for name, values in space.items():
        if name not in field_names():
            load_config(None, {name: values})  # names the nearest field
        if name.split(".")[0] not in SECTIONS or name in ("train.run_name", "train.storage"):
            raise ConfigError(f"tune.space names {name}, which does not change a training; {example}")
        if not values:
            raise ConfigError(f"tune.space gives no values for {name}; {example}")


def _possible(trials: Sequence[Trial], check: Callable[[Config], None]) -> list[Trial]:
    """The trials, those that `check` refuses with their problem.

    Raises:
        ConfigError: none is left.
    """
    checked = []
    for trial in trials:
        try:
            if trial.config is not None:
                check(trial.config)
            checked.append(trial)
        except ConfigError as error:
            checked.append(replace(trial, config=None, problem=str(error)))
    if all(trial.problem for trial in checked):
        raise ConfigError(f"tune.space: none of {len(checked)} combinations is possible: {checked[0].problem}")
    return checked


def _run(config: Config, trials: Sequence[Trial], parent: str, report: Callable[[str], None]) -> Iterator[Trial]:
    """Train the possible trials with Ray Tune; yields all of them with what came of them."""
    configs = {index: trial.config for index, trial in enumerate(trials) if trial.config is not None}
    concurrent = min(config.tune.max_concurrent or len(configs), room(list(configs.values()), ray.cluster_resources()))
    if concurrent > 1:
        configs = {index: _one_thread(config) for index, config in configs.items()}
    report(f"trials: {len(configs)}, {concurrent} at a time")
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # failed trials are reported in one line each
    store = open_store(config.train.storage)
    folder = checkpoint.new_folder(store.url(store.path), config.train.run_name)
    storage, _, name = folder.rpartition("/")
    tuner = tune.Tuner(
        tune.with_resources(_trainable(configs, parent), {_here(): 0.001}),
        param_space={"index": tune.grid_search(list(configs))},
        tune_config=tune.TuneConfig(
            max_concurrent_trials=concurrent,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(name=name, storage_path=storage, verbose=0, callbacks=[_Reports(trials, report)]),
    )
    results: Any = tuner.fit()
    outcomes = {result.config["index"]: result for result in results}
    for index, trial in enumerate(trials):
        yield _outcome(trial, outcomes[index]) if index in outcomes else trial


def _one_thread(config: Config) -> Config:
    """What a worker beside those of other trials does unless told otherwise: the CPU that it holds is the one it uses."""
    threads = config.train.threads or 1
    return config.model_copy(update={"train": config.train.model_copy(update={"threads": threads})})


def _trainable(configs: Mapping[int, Config], parent: str) -> Callable[[dict[str, Any]], None]:
    def train(parameters: dict[str, Any]) -> None:
        result = launch(configs[parameters["index"]], parent_run=parent)
        tune.report({"run_id": result.run_id, "checkpoint": result.checkpoint, "metrics": result.metrics})

    return train


def _here() -> str:
    """The resource that Ray gives to the driver's node alone."""
    node = ray.get_runtime_context().get_node_id()
    resources: dict[str, float] = next(n["Resources"] for n in ray.nodes() if n["NodeID"] == node)
    return next(name for name in resources if name.startswith("node:") and "__" not in name)


def _trial_name(trial: Any) -> str:
    return f"trial-{trial.config['index']:02d}"


def _outcome(trial: Trial, result: Any) -> Trial:
    if result.error is not None:
        return replace(trial, problem=_reason(result.error))
    found = result.metrics
    return replace(trial, run_id=found["run_id"], metrics=found["metrics"], checkpoint=found["checkpoint"])


def _reason(error: BaseException) -> str:
    """What the trial raised, in one line."""
    cause = getattr(error, "cause", None) or error  # Ray wraps what was raised elsewhere
    return str(cause) if isinstance(cause, ConfigError | JobFailed) else one_line(cause)


def _csv(trials: Sequence[Trial]) -> str:
    names = sorted({name for trial in trials for name in trial.metrics})
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([*trials[0].values, *names, "run_id", "problem"])
    for trial in trials:
        metrics = [trial.metrics.get(name, "") for name in names]
        writer.writerow([*trial.values.values(), *metrics, trial.run_id, trial.problem])
    return text.getvalue()


class _Reports(tune.Callback):
    """Tells of each trial in a line."""

    def __init__(self, trials: Sequence[Trial], report: Callable[[str], None]) -> None:
        self._trials = trials
        self._report = report

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray Tune keeps a copy of its callbacks; this one talks to this process alone

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._tell(trial, "started")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        metrics = (trial.last_result or {})["metrics"]
        self._tell(trial, f"{metrics[SCORE]:.3f} bits a token, {metrics[SPEED]:,.0f} tokens/s")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._tell(trial, "failed")

    def _tell(self, trial: Any, what: str) -> None:
        index = trial.config["index"]
        self._report(f"trial {index + 1} of {len(self._trials)} ({self._trials[index].name}): {what}")
