"""Running a sweep: the only file that imports Ray Tune.

In: a configuration with `tune.space`. Out: a training for every trial, each a child of one MLflow run, and a report.

A trial is an actor on the driver's node that calls the same `launch` as jobs/train.py in a thread, and holds no CPU while
its workers train. Only as many trials run at a time as the cluster has room for the workers of, so no trial waits for what
another one holds. A trial that is stopped early asks its workers to end as Ctrl-C would: they write a checkpoint and give
back what they had reserved, which an actor that is just killed would leave reserved.
"""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from reformer_dist import checkpoints as checkpoint
from reformer_dist.config import Config
from reformer_dist.config.space import parse_space
from reformer_dist.data.preparing.preparation import plan_preparation
from reformer_dist.errors import ConfigError
from reformer_dist.planning import preflight as checks
from reformer_dist.ray_session import ray_session
from reformer_dist.storage.stores import open_store
from reformer_dist.tracking import runs as tracking
from reformer_dist.tracking.place import check_reachable, tracking_uri
from reformer_dist.tracking.trials import SCORE, Sweep, Trial, ranked, read_journal, write_journal
from reformer_dist.training import failures
from reformer_dist.tuning import results
from reformer_dist.tuning.following import Following, Job
from reformer_dist.tuning.maker import Maker, check_space
from reformer_dist.tuning.search import Search, check_grid

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
from ray import PlacementGroupID, tune  # noqa: E402
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler  # noqa: E402
from ray.tune.search import Searcher  # noqa: E402
from ray.util.placement_group import PlacementGroup, remove_placement_group  # noqa: E402

Report = Callable[[str], None]


def sweep(config: Config, report: Report = print) -> Sweep:
    """Run the trials of `tune.space`; one that fails does not stop the others.

    Args:
        config: the configuration that the trials share.
        report: takes lines of progress.

    Raises:
        ConfigError: a mistake of the user, found before a worker is taken.
    """
    check_space(config)
    check_grid(config.tune)
    uri = tracking_uri(config)
    check_reachable(uri)
    store = open_store(config.train.storage)
    storage, name = store.url(store.path), config.train.run_name
    folder, parent = checkpoint.new_folder(storage, name), None
    earlier: list[Trial] = []
    if config.tune.resume:
        folder = checkpoint.current_folder(storage, name) or folder
        parent, earlier = read_journal(folder, config)
    found = [checks.check_config]
    if not (ray.is_initialized() or "RAY_ADDRESS" in os.environ):
        found.append(checks.check_machine)
    maker = Maker(config, f"{name}-{folder.rpartition('/')[2]}", found)
    search = Search(config.tune, maker, earlier, report)
    if not search.trials.keys() - {t.index for t in search.trials.values() if t.status == "impossible"}:
        first = next(iter(search.trials.values()))
        raise ConfigError(f"tune.space: none of {len(search.trials)} combinations is possible: {first.problem}")
    with ray_session():
        found.append(lambda config: checks.check_cluster(config, ray.cluster_resources()))
        for data in dict.fromkeys(maker.config(trial).data for trial in search.planned):
            plan_preparation(data, config.train.storage).run(report)
        with tracking.start(
            config, run_id=parent, tell=report
        ) as run:  # makes an SQLite store before several trials try to at once
            book = _Book(config, search, folder, run, report)
            _run(config, maker, search, book)
            book.close()
            trials = ranked(search.trials.values(), config.tune.objectives[0])
            results.keep(config, maker, trials, run)
            if not any(trial.status in ("finished", "stopped") for trial in trials):
                run.finish("FAILED")
    return Sweep(trials, run.id, uri, run.url_hint())


def room(workers: int, use_gpu: bool, resources: Mapping[str, float]) -> int:
    """Trials whose workers fit a cluster's CPUs and GPUs at the same time, at least one."""
    cpus = int(resources.get("CPU", 1.0))
    fits = cpus // min(workers, cpus)
    if use_gpu:
        fits = min(fits, int(resources.get("GPU", 0.0)) // workers)
    return max(1, fits)


def _run(config: Config, maker: Maker, search: Search, book: "_Book") -> None:
    """Run what is left to run with Ray Tune."""
    workers = max(map(_most, [config.train.workers, *_swept(config, "train.workers")]))
    use_gpu = config.train.use_gpu or True in _swept(config, "train.use_gpu")
    concurrent = config.tune.max_concurrent or room(workers, use_gpu, ray.cluster_resources())
    planned = search.planned
    if not planned:
        book.report("every trial of this sweep has ended")
        return
    number = "up to " * (config.tune.searcher == "optuna") + str(max(len(planned), config.tune.trials))
    book.report(f"trials: {number if config.tune.searcher == 'optuna' else len(planned)}, {concurrent} at a time")
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # failed trials are reported in one line each
    job = Job(maker, book.run_id, book.folder, one_thread=concurrent > 1)
    storage, _, name = f"{book.folder}/tune".rpartition("/")
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
            callbacks=[book],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # a training writes its own
            failure_config=tune.FailureConfig(max_failures=config.train.max_failures),
        ),
    )
    tuner.fit()


def _most(workers: int | Sequence[int]) -> int:
    return workers if isinstance(workers, int) else max(workers)


def _swept(config: Config, name: str) -> tuple[Any, ...]:
    dimension = parse_space(config.tune.space).get(name)
    return () if dimension is None else dimension.values


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


def _plain(trial: Trial) -> dict[str, Any]:
    """A trial as Ray Tune carries it."""
    return asdict(trial)


def _here() -> str:
    """The resource that Ray gives to the driver's node alone."""
    node = ray.get_runtime_context().get_node_id()
    resources: dict[str, float] = next(n["Resources"] for n in ray.nodes() if n["NodeID"] == node)
    return next(name for name in resources if name.startswith("node:") and "__" not in name)


def _trial_name(trial: Any) -> str:
    return f"trial-{trial.config['trial']['index']:02d}"


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
    """Hands the search's trials to Ray Tune; what comes of them is told to the search by `_Book`."""

    def __init__(self, search: Search) -> None:
        super().__init__()
        self._search = search

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray Tune keeps a copy; the journal has what is needed to go on

    def suggest(self, trial_id: str) -> Any:
        """The next trial."""
        trial = self._search.propose()
        return Searcher.FINISHED if trial is None else {"trial": _plain(trial)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing; see `_Book`."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing; the journal is enough."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing; the journal is enough."""


class _Book(tune.Callback):
    """Follows the trials on the driver: tells the search, the journal, MLflow and the terminal."""

    def __init__(self, config: Config, search: Search, folder: str, run: tracking.Run, report: Report) -> None:
        self.folder, self.run_id, self.report = folder, run.id, report
        self._config, self._search, self._run = config, search, run
        self._groups: dict[int, str] = {}
        self._write()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray Tune keeps a copy of its callbacks; this one talks to this process alone

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tell; after a trial's process was lost, give back what its workers had reserved."""
        self._free(self._of(trial))
        self._tell(trial, f"{self._why_lost(trial)}; it starts again" if trial.error_file else "started")
        self._write()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Take in what a trial has reported."""
        if "told" in result:
            self._tell(trial, result["told"])
        if result["placement_group"]:
            self._groups[self._of(trial).index] = result["placement_group"]
        if result["run_id"] != self._of(trial).run_id:
            self._update(trial, result)
            self._write()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Take in a trial that has finished, has failed by itself, or was stopped."""
        result = trial.last_result
        self._groups.pop(self._of(trial).index, None)
        status = "stopped" if not result.get("ended") else "failed" if result["problem"] else "finished"
        self._update(trial, result, status=status, problem=result["problem"])
        self._ended(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Take in a trial whose process was lost too often."""
        self._free(self._of(trial))
        problem = f"{self._why_lost(trial)}; as often as train.max_failures = {self._config.train.max_failures} allows"
        self._update(trial, trial.last_result or {}, status="failed", problem=problem)
        self._ended(trial)

    def close(self) -> None:
        """Mark the runs of trials that were stopped early, and leave no run open that nobody goes on with."""
        for trial in self._search.trials.values():
            if trial.status == "stopped":
                self._run.close_other(trial.run_id, "FINISHED", stopped_at=int(trial.metrics["step"]))
        self._run.close_children()  # of processes that were lost before their first checkpoint, in this sweep or before it

    def _of(self, trial: Any) -> Trial:
        return self._search.trials[trial.config["trial"]["index"]]

    def _update(self, trial: Any, result: Mapping[str, Any], **changes: Any) -> None:
        ours = self._of(trial)
        metrics = {**ours.metrics, **result.get("metrics", {}), "step": float(result.get("step", 0))}
        checkpoint = result.get("checkpoint", ours.checkpoint)
        known = {"run_id": result.get("run_id") or ours.run_id, "metrics": metrics, "checkpoint": checkpoint}
        self._search.trials[ours.index] = replace(ours, **known, **changes)

    def _ended(self, trial: Any) -> None:
        ours = self._of(trial)
        self._search.tell(ours)
        self._write()
        score, speed = ours.objective("loss"), ours.objective("speed")
        figures = f"{score:.3f} bits a token, {speed:,.0f} tokens/s" if score and speed else ""
        stopped = f"stopped at step {ours.metrics.get('step', 0):.0f}: {figures}"
        self._tell(trial, {"finished": figures, "stopped": stopped}.get(ours.status, ours.status))

    def _why_lost(self, trial: Any) -> str:
        """Why a trial's process was lost, and where all that Ray says of it is kept, beside the checkpoints."""
        text = Path(trial.error_file).read_text()
        ours = self._of(trial)
        folder = f"{self._config.train.storage}/{ours.run_name}"
        return f"{failures.lost_process(text)} (all of it: {failures.keep(text, folder)})"

    def _free(self, trial: Trial) -> None:
        """Give back what the workers of a lost trial had reserved, if there was any."""
        group = self._groups.pop(trial.index, None)
        if group is not None:
            remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(group))))

    def _tell(self, trial: Any, what: str) -> None:
        ours = self._of(trial)
        self.report(f"trial {ours.number} ({ours.name}): {what}")

    def _write(self) -> None:
        write_journal(self.folder, self._config, self.run_id, self._search.trials.values())
