"""Preflight: what can be known to go wrong before a worker is taken, all of it told at once.

In: a configuration, and stage by stage what it is held against. Out: what the stages found out, or one ConfigError with
a line for each mistake.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from reformer_dist.checkpoints.starting_point import Place
from reformer_dist.config import Config
from reformer_dist.data.preparing.corpus import Corpus
from reformer_dist.data.preparing.preparation import Preparation
from reformer_dist.errors import ConfigError
from reformer_dist.planning import corpora, objectives, places, spaces, workers
from reformer_dist.planning.known import Check, Known
from reformer_dist.ray_session import will_join

Result = TypeVar("Result")

# Every check there is, in the order in which a user would mend what they tell.
BEFORE_RAY: Mapping[Check, tuple[str, ...]] = {
    objectives.goes_with_model: ("objective", "model"),
    objectives.goes_with_lengths: ("objective", "data"),
    objectives.goes_with_records: ("objective", "data"),
    places.storage: ("train.storage",),
    places.tracking: ("tracking.uri", "train.storage"),
    places.resumed_checkpoint: ("model", "train.resume"),
    places.first_weights: ("model", "train.resume", "train.weights_from", "train.storage", "train.run_name"),
    corpora.tokenizer: ("data",),
    corpora.vocabulary: ("data", "model.vocab_size", "objective"),
    corpora.sources: ("data", "train.storage"),
    workers.machine: ("train.workers", "train.use_gpu"),
    workers.memory: ("data", "model", "parallel", "train"),
    workers.keep: ("data", "model", "parallel", "train"),
}
"""Checks, and the sections or fields that each reads, which must be right for themselves."""
ON_CLUSTER: tuple[Check, ...] = (workers.cluster,)
WITH_CORPUS: tuple[Check, ...] = (objectives.fields, corpora.vocabulary, corpora.sequences, places.start)
BEFORE_SWEEP: Mapping[Check, tuple[str, ...]] = {
    spaces.fields: ("tune.space",),
    spaces.grid: ("tune.space", "tune.searcher"),
    places.storage: ("train.storage",),
    places.tracking: ("tracking.uri", "train.storage"),
}
OF_SWEPT_DATA: Mapping[Check, tuple[str, ...]] = {
    corpora.tokenizer: ("data",),
    corpora.sources: ("data", "train.storage"),
}
OF_TRIAL: tuple[Check, ...] = (
    objectives.goes_with_model,
    objectives.goes_with_lengths,
    objectives.goes_with_records,
    places.resumed_checkpoint,
    places.first_weights,
    corpora.tokenizer,
    corpora.vocabulary,
    workers.machine,
    workers.memory,
    workers.keep,
)


class Preflight:
    """Every check of a configuration against corpus, checkpoint, cluster and memory, run by the driver.

    Some checks need what is there only later, so they run in stages. Within a stage every check runs, then all that is
    wrong is raised as one error:

    0. `load_config`: the configuration alone. A job whose values are wrong tells with them what stage 1 finds in those that
       are right (`mistakes_before_ray`, `mistakes_before_sweep`).
    1. `before_ray`: storage, MLflow's store, a checkpoint that is named, sources and vocabulary, this machine. A mistake
       here leaves nothing written and nothing started.
    2. `on_cluster`, once Ray runs: its CPUs and GPUs.
    3. `with_corpus`, once it is prepared: its vocabulary, enough sequences, and the checkpoint that was trained on it.

    A sweep has `before_sweep` first; each of its trials passes `of_trial`, then `on_cluster`, and all of the above when
    it is launched. A job that uses this process alone has `on_this_machine`.
    """

    def __init__(self, config: Config) -> None:
        self._config = corpora.with_vocab_size(config)
        self._known = Known(joins=will_join())

    @property
    def config(self) -> Config:
        """The configuration with what it left to the corpus."""
        return self._config

    def before_ray(self) -> Preparation:
        """Stage 1; then the storage folder is there, and what is to be prepared is known."""
        self._run(BEFORE_RAY)
        places.make_storage(self._config)
        return self._preparation()

    def on_cluster(self, resources: Mapping[str, float]) -> None:
        """Stage 2, given what the running Ray has."""
        self._known.resources = resources
        self._run(ON_CLUSTER)

    def with_corpus(self, corpus: Corpus) -> Place:
        """Stage 3; then it is known where training starts."""
        self._known.corpus, self._known.vocab_sizes = corpus, {}
        self._run(WITH_CORPUS)
        assert self._known.place is not None
        return self._known.place

    def before_sweep(self) -> None:
        """What all trials of a sweep share, the sources too unless they differ; then the storage folder is there."""
        self._run(_of_sweep(self._config))
        places.make_storage(self._config)

    def of_trial(self) -> None:
        """What a trial has of its own, apart from its sources."""
        self._run(OF_TRIAL)

    def of_sources(self, trials: Sequence[Config]) -> Sequence[Preparation]:
        """The sources of a sweep's trials, each once; then it is known what is to be prepared of them."""
        sources = {trial.data: trial for trial in trials}
        return together(partial(self._prepared_for, trial) for trial in sources.values())

    def on_this_machine(self) -> None:
        """Whether this machine has what the job asks for, whether or not Ray runs."""
        self._known.joins = False
        self._run((workers.machine,))

    def _prepared_for(self, trial: Config) -> Preparation:
        if trial.data == self._config.data and self._known.preparation is not None:
            return self._known.preparation
        other = Preflight(trial)
        other._run(OF_SWEPT_DATA)
        return other._preparation()

    def _preparation(self) -> Preparation:
        assert self._known.preparation is not None
        return self._known.preparation

    def _run(self, checks: Iterable[Check]) -> None:
        together(partial(self._ask, check) for check in checks)

    def _ask(self, check: Check) -> None:
        try:
            check(self._config, self._known)
        except ConfigError:
            self._known.failed.add(check)
            raise
        except OSError as error:  # a store that does not answer
            self._known.failed.add(check)
            raise ConfigError(str(error)) from None


def mistakes_before_ray(config: Config, right: frozenset[str]) -> Sequence[str]:
    """What `Preflight.before_ray` finds wrong, as far as sections and fields that are `right` show it."""
    return _mistakes(config, BEFORE_RAY, right)


def mistakes_before_sweep(config: Config, right: frozenset[str]) -> Sequence[str]:
    """What `Preflight.before_sweep` finds wrong, as far as sections and fields that are `right` show it."""
    return _mistakes(config, _of_sweep(config), right)


def _mistakes(config: Config, checks: Mapping[Check, Iterable[str]], right: frozenset[str]) -> Sequence[str]:
    try:
        Preflight(config)._run(check for check, needed in checks.items() if right.issuperset(needed))
    except ConfigError as error:
        return error.problems
    return ()


def _of_sweep(config: Config) -> Mapping[Check, tuple[str, ...]]:
    """The checks of what all trials share, to which data belongs unless the space names a field of it."""
    differ = any(name.startswith("data.") for name in config.tune.space)
    return BEFORE_SWEEP if differ else {**BEFORE_SWEEP, **OF_SWEPT_DATA}


def together(actions: Iterable[Callable[[], Result]]) -> Sequence[Result]:
    """The results of several actions, which all run even if some fail.

    Raises:
        ConfigError: the problems of all that failed, each once.
    """
    results: list[Result] = []
    problems: list[str] = []
    for action in actions:
        try:
            results.append(action())
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(*dict.fromkeys(problems))
    return results
