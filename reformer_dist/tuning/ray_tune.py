"""Ray Tune, which starts trials, replaces lost ones and stops those that are behind: the only file that imports it.

In: a search that proposes trials, and what they share. Out: what comes of each, told to the book.

A trial is an actor on the driver's node that calls the same `launch` as jobs/train.py in a thread, and holds no CPU while
its workers train. A trial that is stopped early asks its workers to end as Ctrl-C would: they write a checkpoint and give
back what they had reserved, which an actor that is just killed would leave reserved.
"""

import logging
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from reformer_dist.config import Config
from reformer_dist.tracking.trials import SCORE, Trial
from reformer_dist.tuning.book import Book
from reformer_dist.tuning.following import Following, Job
from reformer_dist.tuning.search import Search

# Read by Ray Tune when it is imported or started, so this module sets them before it imports Ray Tune.
_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # MLflow has the metrics
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the job, as it ends the others
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial's first result has no loss yet
    "RAY_AIR_NEW_OUTPUT": "0",  # the new one prints a box of its own whatever `verbose` says
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # paths in the configuration may be relative
}
for _name, _value in _SETTINGS.items():
    os.environ.setdefault(_name, _value)

import ray  # noqa: E402
from ray import tune  # noqa: E402
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler  # noqa: E402
from ray.tune.search import Searcher  # noqa: E402


def run_trials(config: Config, job: Job, search: Search, book: Book, concurrent: int) -> None:
    """Run all trials that the search proposes, `concurrent` at a time; Ray must be running."""
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # failed trials are reported in one line each
    storage, name = job.folder, "tune"
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(_Training, job=job), {_here(): 0.001}),
        tune_config=tune.TuneConfig(
            search_alg=_Proposals(search),
            num_samples=-1,
            scheduler=_scheduler(config),
            max_concurrent_trials=concurrent,
            reuse_actors=True,  # a process that has loaded everything is worth seconds
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=storage,
            verbose=0,
            callbacks=[_Events(book)],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # a training writes its own
            failure_config=tune.FailureConfig(max_failures=config.train.max_failures),
        ),
    )
    tuner.fit()


def _scheduler(config: Config) -> TrialScheduler:
    grace = config.tune.grace_steps or config.train.validate_every
    if config.tune.scheduler == "asha":
        return ASHAScheduler(
            time_attr="step",
            metric=SCORE,
            mode="min",
            grace_period=grace,
            max_t=config.train.steps + 1,  # the last step ends a trial by itself
            reduction_factor=config.tune.reduction,
        )
    return FIFOScheduler()


def _here() -> str:
    """The resource that Ray gives to the driver's node alone."""
    node = ray.get_runtime_context().get_node_id()
    resources: dict[str, float] = next(n["Resources"] for n in ray.nodes() if n["NodeID"] == node)
    return next(name for name in resources if name.startswith("node:") and "__" not in name)


def _trial_name(trial: Any) -> str:
    return f"trial-{_index(trial):02d}"


class _Training(tune.Trainable):
    """A trial: one training, whose validations are its results."""

    def setup(self, config: dict[str, Any], job: Job) -> None:  # type: ignore[override]
        """Take the trial."""
        self._job = job
        self._following = Following(job, Trial(**config["trial"]))

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take another trial; the one before has ended, or ends now because it was stopped."""
        self._following.end()
        self._following = Following(self._job, Trial(**new_config["trial"]))
        return True

    def step(self) -> dict[str, Any]:
        """Wait for the next validation, or the end."""
        return self._following.result()

    def cleanup(self) -> None:
        """End the training in good order if it is under way."""
        self._following.end()


class _Proposals(Searcher):
    """Hands the search's trials to Ray Tune; what comes of them is told to the search by `_Events`."""

    def __init__(self, search: Search) -> None:
        super().__init__()
        self._search = search

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray Tune keeps a copy; the journal has what is needed to go on

    def suggest(self, trial_id: str) -> Any:
        """The next trial."""
        trial = self._search.propose()
        return Searcher.FINISHED if trial is None else {"trial": asdict(trial)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing; see `_Events`."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing; the journal is enough."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing; the journal is enough."""


class _Events(tune.Callback):
    """Tells the book what becomes of trials."""

    def __init__(self, book: Book) -> None:
        self._book = book

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray Tune keeps a copy of its callbacks; this one talks to this process alone

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """It starts, the first time or after its process was lost."""
        if trial.error_file:
            self._book.starts_again(_index(trial), _error(trial))
        else:
            self._book.started(_index(trial))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """It has reported."""
        self._book.reported(_index(trial), result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """It has finished, has failed by itself, or was stopped."""
        self._book.ended(_index(trial), trial.last_result)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Its process was lost too often."""
        self._book.lost(_index(trial), trial.last_result or {}, _error(trial))


def _index(trial: Any) -> int:
    index: int = trial.config["trial"]["index"]
    return index


def _error(trial: Any) -> str:
    """What Ray says of a lost process, at length."""
    return Path(trial.error_file).read_text()
