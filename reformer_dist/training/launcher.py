"""Launching a training: what the driver does from a configuration to a run that is done.

In: a configuration. Out: a trained model's last checkpoint and its MLflow run. The driver looks for mistakes (see
`Preflight`), prepares the corpus, decides where to start, and then listens to the workers (see `listener`).
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ray

from reformer_dist import checkpoints
from reformer_dist.checkpoints import first_weights
from reformer_dist.checkpoints.starting_point import Place
from reformer_dist.config import Config
from reformer_dist.data.preparing.corpus import Corpus
from reformer_dist.data.preparing.preparation import Preparation
from reformer_dist.errors import ConfigError
from reformer_dist.objectives.choice import make_objective, vocab_sizes
from reformer_dist.planning.corpora import wasteful_vocabulary
from reformer_dist.planning.preflight import Preflight
from reformer_dist.ray_session import ray_session
from reformer_dist.storage.locks import Taken, alone
from reformer_dist.storage.stores import open_store
from reformer_dist.tracking import runs
from reformer_dist.training.listener import Watcher, train_and_listen
from reformer_dist.training.meter import in_split
from reformer_dist.training.progress import Terminal
from reformer_dist.training.results import keep_results
from reformer_dist.training.worker import Work


@dataclass(frozen=True)
class RunResult:
    """What a training leaves.

    Attributes:
        run_id: MLflow run.
        metrics: last value of each metric.
        checkpoint: folder or URL of the last checkpoint.
        tracking_uri: where MLflow keeps the run.
        url_hint: how to look at the run.
    """

    run_id: str
    metrics: dict[str, float]
    checkpoint: str
    tracking_uri: str
    url_hint: str


def launch(config: Config, *, parent_run: str | None = None, watcher: Watcher | None = None) -> RunResult:
    """Train as the configuration says, from its own last checkpoint if there is one (`train.resume`).

    Args:
        config: the configuration.
        parent_run: MLflow run that this one is part of.
        watcher: follows the training. If it ends it, the training counts as finished.

    Raises:
        ConfigError: mistakes of the user; all that can be known before is found before a worker is taken.
        JobFailed: the workers failed; one line with the cause and where the whole story is.
        JobStopped: Ctrl-C or SIGTERM; the workers have written a checkpoint first. A second signal does not wait for it.
    """
    preflight = Preflight(config)
    config, preparation = preflight.config, preflight.before_ray()
    with _alone(config):
        return _launched(config, preflight, preparation, parent_run, watcher)


@contextmanager
def _alone(config: Config) -> Iterator[None]:
    """Hold the run's folder, so that no second job writes there; that of a store that is no disk is not held."""
    store = open_store(config.train.storage)
    if not store.is_local:
        yield
        return
    name = config.train.run_name
    try:
        with alone(Path(store.path) / name / "driver.lock"):
            yield
    except Taken as taken:
        raise ConfigError(f"train.run_name = {name} is being trained by {taken}; another name works") from None


def _launched(
    config: Config, preflight: Preflight, preparation: Preparation, parent_run: str | None, watcher: Watcher | None
) -> RunResult:
    experiment = _opening(config, watcher)
    with ray_session():
        preflight.on_cluster(ray.cluster_resources())
        experiment.result()  # what MLflow refuses is told before anything is prepared
        corpus = preparation.run()
        place = preflight.with_corpus(corpus)
        if note := wasteful_vocabulary(config, vocab_sizes(make_objective(config.objective), corpus)):
            print(note)
        run = experiment.result().start(config, parent_run=parent_run, run_id=place.run_id)
        if watcher is not None:
            watcher.started(run.id)
        _complete(run, place)
        run.note_changes(place.step, place.changes)
        with run:
            if run.last_step("baseline/loss") < 0:
                run.log_data(",".join(config.data.sources), corpus.hash, corpus.folder)
                if corpus.manifest.problems:
                    run.log_text("left_out.txt", "\n".join(corpus.manifest.problems) + "\n")
                run.log(0, in_split("baseline", make_objective(config.objective).baseline(corpus, "validation")))
            if place.weights is not None:
                _tell_first_weights(config, place.weights, run)
            path = _trained(config, corpus, place, run, watcher)
            keep_results(config, corpus, run, path)
        return RunResult(run.id, run.last_metrics(), path, run.uri, run.url_hint())


def _opening(config: Config, watcher: Watcher | None) -> Future[runs.Experiment]:
    """MLflow's experiment, opened by a thread while Ray starts."""
    beside = ThreadPoolExecutor(1)
    experiment = beside.submit(runs.open_experiment, config, print if watcher is None else watcher.told)
    beside.shutdown(wait=False)
    return experiment


def _complete(run: runs.Run, place: Place) -> None:
    """Log the checkpoint's metrics that a killed driver may not have sent, if the run goes on."""
    if place.run_id is not None and place.start is not None:
        for step, metrics in checkpoints.read_metrics(place.start):
            run.log(step, metrics)


def _tell_first_weights(config: Config, path: str, run: runs.Run) -> None:
    """Say which tensors begin as those of a checkpoint, in a line and in the run's first_weights.txt."""
    found = first_weights.origins(config.model, checkpoints.read_state(path).config.model)
    print(found.told(path))
    run.log_text("first_weights.txt", found.listed(path))


def _trained(config: Config, corpus: Corpus, place: Place, run: runs.Run, watcher: Watcher | None) -> str:
    """The last checkpoint, after the steps that were left to do."""
    if place.step < config.train.steps:
        with Terminal(config) as terminal:
            job = Work(config, corpus, place.folder, place.start, run.id, place.weights)
            train_and_listen(job, run, terminal, watcher)
    else:
        print(f"{place.start} has done all of train.steps = {config.train.steps}: a larger number goes on")
    path = checkpoints.newest(place.folder)
    assert path is not None, "the last step, like one at which training was ended, writes a checkpoint"
    return path
