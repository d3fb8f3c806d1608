"""Choosing trials: a grid, draws, or Optuna's TPE; the only file that imports Optuna.

In: the dimensions of a space and what came of earlier trials. Out: values to try, and how much each field mattered.
What cannot be trained is found here, before it takes a worker, and nothing is tried twice.
"""

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from reformer_dist.config import TuneConfig
from reformer_dist.config.space import Dimension, combinations, parse_space
from reformer_dist.tracking.trials import Trial
from reformer_dist.tuning.maker import Maker

optuna.logging.set_verbosity(optuna.logging.ERROR)

DIRECTIONS: dict[str, Literal["minimize", "maximize"]] = {"loss": "minimize", "speed": "maximize", "memory": "minimize"}
MAX_MISSES = 200
"""Draws in a row that were impossible or had been tried, after which the space counts as used up."""


class Search:
    """Proposes the trials of a sweep.

    Args:
        tune: the section of the configuration.
        maker: makes trials of values.
        earlier: trials of the sweep before it was interrupted; those that have not ended come first.
        report: takes a line about every impossible trial.
    """

    def __init__(
        self, tune: TuneConfig, maker: Maker, earlier: Sequence[Trial] = (), report: Callable[[str], None] = print
    ) -> None:
        self._tune, self._maker, self._report = tune, maker, report
        self.trials: dict[int, Trial] = {trial.index: trial for trial in earlier}
        self._space = parse_space(tune.space)
        self._asked: dict[int, optuna.trial.Trial] = {}
        if tune.searcher == "grid":
            known = {_key(trial.values) for trial in earlier}
            every = combinations(self._space)
            self._values: Iterator[dict[str, Any]] = (values for values in every if _key(values) not in known)
        else:
            self._study = _study(tune)
            for trial in earlier:
                if trial.has_ended and (past := _past(trial, self._space, tune.objectives)) is not None:
                    self._study.add_trial(past)
            self._values = self._draws()
        self._waiting = [trial for trial in earlier if not trial.has_ended]
        while (proposed := self._next()) is not None:
            self._waiting.append(proposed)
            if tune.searcher == "optuna":  # whose further trials depend on what comes of this one
                break

    @property
    def planned(self) -> tuple[Trial, ...]:
        """The trials to run that are known now: all of a grid or of draws, the first of Optuna's."""
        return tuple(self._waiting)

    def propose(self) -> Trial | None:
        """The next trial, None when there is none left."""
        return self._waiting.pop(0) if self._waiting else self._next()

    def tell(self, trial: Trial) -> None:
        """What became of a trial; the search learns from it."""
        self.trials[trial.index] = trial
        if (asked := self._asked.pop(trial.index, None)) is None:
            return
        values = [trial.objective(name) for name in self._tune.objectives]
        if trial.status == "finished" and None not in values:
            self._study.tell(asked, [value for value in values if value is not None])
        elif trial.status == "stopped" and len(values) == 1 and values[0] is not None:
            asked.report(values[0], int(trial.metrics.get("step", 0)))
            self._study.tell(asked, state=TrialState.PRUNED)
        else:
            self._study.tell(asked, state=TrialState.FAIL)

    def _next(self) -> Trial | None:
        for values in self._values:
            trial = self._maker.trial(len(self.trials), values)
            self.trials[trial.index] = trial
            if (asked := self._asked.pop(-1, None)) is not None:
                self._asked[trial.index] = asked
            if trial.status != "impossible":
                return trial
            self._report(f"left out: {trial.name}: {trial.problem}")
            self.tell(trial)
        return None

    def _draws(self) -> Iterator[dict[str, Any]]:
        """Values that were not drawn before, as many as there are trials to run."""
        misses = 0
        while misses < MAX_MISSES and self._num_possible() < self._tune.trials:
            before = len(self.trials)
            asked = self._study.ask()
            values = _suggested(asked, self._space)
            if _key(values) in {_key(trial.values) for trial in self.trials.values()}:
                self._study.tell(asked, state=TrialState.FAIL)
                misses += 1
                continue
            self._asked[-1] = asked
            yield values
            misses = misses + 1 if self.trials[before].status == "impossible" else 0

    def _num_possible(self) -> int:
        return sum(trial.status != "impossible" for trial in self.trials.values())


def comparable(trials: Sequence[Trial]) -> list[Trial]:
    """The finished trials that choose the same fields: of conditional spaces the largest such group."""
    groups: dict[frozenset[str], list[Trial]] = {}
    for trial in trials:
        if trial.status == "finished":
            groups.setdefault(frozenset(trial.values), []).append(trial)
    return max(groups.values(), key=len, default=[])


def importance(tune: TuneConfig, trials: Sequence[Trial], objective: str) -> dict[str, float]:
    """Share of the variance of an objective over comparable trials that each field explains (fANOVA), largest first.

    Empty where there are too few trials or nothing differs.
    """
    space = parse_space(tune.space)
    study = optuna.create_study(direction=DIRECTIONS[objective])
    past = [_past(trial, space, (objective,)) for trial in comparable(trials)]
    study.add_trials([trial for trial in past if trial is not None])
    names = [name for name in space if len({str(trial.params.get(name)) for trial in study.trials}) > 1]
    if len(study.trials) < 4 or not names or len({trial.value for trial in study.trials}) < 2:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator, params=names))


def _study(tune: TuneConfig) -> optuna.Study:
    if tune.searcher == "random":
        sampler: optuna.samplers.BaseSampler = optuna.samplers.RandomSampler(seed=tune.seed)
    else:
        startup = max(4, min(10, tune.trials // 3))
        with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
            sampler = optuna.samplers.TPESampler(seed=tune.seed, n_startup_trials=startup, constant_liar=True)
    return optuna.create_study(directions=[DIRECTIONS[name] for name in tune.objectives], sampler=sampler)


def _suggested(trial: optuna.trial.Trial, space: Mapping[str, Dimension]) -> dict[str, Any]:
    """Values of the fields that matter, each after those it depends on."""
    values: dict[str, Any] = {}
    for name, dimension in space.items():
        if not dimension.matters(values):
            continue
        if dimension.kind == "choice":
            label = trial.suggest_categorical(name, [_label(value) for value in dimension.values])
            values[name] = next(value for value in dimension.values if _label(value) == label)
        elif dimension.kind == "int":
            values[name] = trial.suggest_int(name, *dimension.values)
        else:
            values[name] = trial.suggest_float(name, *dimension.values, log=dimension.kind == "loguniform")
    return values


def _past(trial: Trial, space: Mapping[str, Dimension], objectives: Sequence[str]) -> optuna.trial.FrozenTrial | None:
    """A trial that has ended as Optuna keeps it; None if it has nothing to tell."""
    values = [value for name in objectives if (value := trial.objective(name)) is not None]
    if trial.status != "finished" or len(values) < len(objectives):
        return None
    distributions = {name: _distribution(space[name]) for name in trial.values}
    params = {name: _param(space[name], value) for name, value in trial.values.items()}
    return create_trial(values=values, params=params, distributions=distributions)


def _distribution(dimension: Dimension) -> BaseDistribution:
    if dimension.kind == "choice":
        return CategoricalDistribution([_label(value) for value in dimension.values])
    if dimension.kind == "int":
        return IntDistribution(*dimension.values)
    low, high = dimension.values
    return FloatDistribution(low, high, log=dimension.kind == "loguniform")


def _param(dimension: Dimension, value: Any) -> Any:
    if dimension.kind == "choice":
        return _label(value)
    low, high = dimension.values
    return min(max(value, low), high)  # the ends of a grid may be off by rounding


def _label(value: Any) -> str | int | float | bool | None:
    """A value as Optuna takes it."""
    return value if value is None or isinstance(value, str | int | float | bool) else json.dumps(value)


def _key(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True)
