"""Running a sweep: what the driver does from a configuration with `tune.space` to a report.

In: the configuration. Out: a training for every trial, each a child of one MLflow run, and what they tell together. Only as
many trials run at a time as the cluster has room for the workers of, so no trial waits for what another one holds.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import ray

from reformer_dist import checkpoints
from reformer_dist.config import Config
from reformer_dist.config.space import parse_space
from reformer_dist.errors import ConfigError
from reformer_dist.planning.preflight import Preflight, together
from reformer_dist.ray_session import ray_session
from reformer_dist.storage.stores import open_store
from reformer_dist.tracking import runs
from reformer_dist.tracking.trials import Sweep, Trial, ranked, read_journal
from reformer_dist.tuning import results
from reformer_dist.tuning.book import Book, Report
from reformer_dist.tuning.following import Job
from reformer_dist.tuning.maker import Maker
from reformer_dist.tuning.ray_tune import run_trials
from reformer_dist.tuning.search import Search


def sweep(config: Config, report: Report = print) -> Sweep:
    """Run the trials of `tune.space`; one that fails does not stop the others.

    Args:
        config: the configuration that the trials share.
        report: takes lines of progress.

    Raises:
        ConfigError: mistakes of the user, found before a worker is taken.
    """
    preflight = Preflight(config)
    preflight.before_sweep()
    folder, parent, earlier = _journal(config)
    checks = [lambda trial: Preflight(trial).of_trial()]
    maker = Maker(config, f"{config.train.run_name}-{folder.rpartition('/')[2]}", checks)
    search = Search(config.tune, maker, earlier, report)
    _check_possible(search)
    planned = [maker.config(trial) for trial in search.planned]
    together(Preflight(trial).of_trial for trial in planned)  # those of the journal were made on another machine, maybe
    preparations = preflight.of_sources(planned)
    with ray_session():
        checks.append(lambda trial: Preflight(trial).on_cluster(ray.cluster_resources()))
        together(partial(Preflight(trial).on_cluster, ray.cluster_resources()) for trial in planned)
        for preparation in preparations:
            preparation.run(report)
        # A run of its own makes an SQLite store before several trials try to at once.
        with runs.start(config, run_id=parent, tell=report) as run:
            book = Book(config, search, folder, run, report)
            _run(config, maker, search, book)
            book.close()
            trials = ranked(search.trials.values(), config.tune.objectives[0])
            results.keep(config, maker, trials, run)
            if not any(trial.status in ("finished", "stopped") for trial in trials):
                run.finish("FAILED")
    return Sweep(trials, run.id, run.uri, run.url_hint())


def _journal(config: Config) -> tuple[str, str | None, list[Trial]]:
    """The sweep's folder and, of one that goes on (`tune.resume`), its MLflow run and trials."""
    store = open_store(config.train.storage)
    storage, name = store.url(store.path), config.train.run_name
    if not config.tune.resume:
        return checkpoints.new_folder(storage, name), None, []
    folder = checkpoints.current_folder(storage, name) or checkpoints.new_folder(storage, name)
    return folder, *read_journal(folder, config)


def _check_possible(search: Search) -> None:
    if all(trial.status == "impossible" for trial in search.trials.values()):
        first = next(iter(search.trials.values()))
        raise ConfigError(f"tune.space: none of {len(search.trials)} combinations is possible: {first.problem}")


def _run(config: Config, maker: Maker, search: Search, book: Book) -> None:
    """Run what is left to run."""
    workers = max(map(_most, [config.train.workers, *_swept(config, "train.workers")]))
    use_gpu = config.train.use_gpu or True in _swept(config, "train.use_gpu")
    concurrent = config.tune.max_concurrent or room(workers, use_gpu, ray.cluster_resources())
    planned = search.planned
    if not planned:
        book.report("every trial of this sweep has ended")
        return
    number = f"up to {max(len(planned), config.tune.trials)}" if config.tune.searcher == "optuna" else len(planned)
    book.report(f"trials: {number}, {concurrent} at a time")
    run_trials(config, Job(maker, book.run_id, book.folder, one_thread=concurrent > 1), search, book, concurrent)


def room(workers: int, use_gpu: bool, resources: Mapping[str, float]) -> int:
    """Trials whose workers fit a cluster's CPUs and GPUs at the same time, at least one."""
    cpus = int(resources.get("CPU", 1.0))
    fits = cpus // min(workers, cpus)
    if use_gpu:
        fits = min(fits, int(resources.get("GPU", 0.0)) // workers)
    return max(1, fits)


def _most(workers: int | Sequence[int]) -> int:
    return workers if isinstance(workers, int) else max(workers)


def _swept(config: Config, name: str) -> tuple[Any, ...]:
    dimension = parse_space(config.tune.space).get(name)
    return () if dimension is None else dimension.values
