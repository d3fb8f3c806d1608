"""Choosing trials without training: what is left out before a worker is taken, and which field mattered."""

from pathlib import Path

import pytest

from reformer_dist.reports import sweep as pictures
from reformer_dist.tuning.search import comparable, importance
from tests.tuning.trials import config, finished, search_of


def test_a_grid_is_every_combination_and_the_impossible_are_left_out(tmp_path: Path) -> None:
    asked = config(tmp_path, {"model.num_hashes": [1, 2], "parallel.sequence_shards": [1, 3]})
    search = search_of(asked)
    assert [dict(trial.values) for trial in search.planned] == [
        {"model.num_hashes": n, "parallel.sequence_shards": 1} for n in (1, 2)
    ]
    problems = [trial.problem for trial in search.trials.values() if trial.status == "impossible"]
    assert len(problems) == 2
    assert all("parallel.sequence_shards = 3" in problem for problem in problems)


@pytest.mark.parametrize("searcher", ["random", "optuna"])
def test_draws_stay_in_the_space_and_do_not_repeat(tmp_path: Path, searcher: str) -> None:
    space = {"model.num_hashes": {"int": [1, 3]}, "optimizer.learning_rate": [0.001, 0.002]}
    search = search_of(config(tmp_path, space, **{"tune.searcher": searcher, "tune.trials": 50}))
    seen = []
    while (trial := search.propose()) is not None:
        seen.append(tuple(trial.values.values()))
        search.tell(finished(trial, float(trial.values["model.num_hashes"])))
    assert sorted(seen) == [(n, rate) for n in (1, 2, 3) for rate in (0.001, 0.002)]


def test_several_objectives_are_told(tmp_path: Path) -> None:
    fields = {"tune.searcher": "optuna", "tune.trials": 8, "tune.objectives": "loss,speed,memory"}
    search = search_of(config(tmp_path, {"optimizer.learning_rate": {"loguniform": [0.001, 0.1]}}, **fields))
    for _ in range(8):
        trial = search.propose()
        assert trial is not None
        search.tell(finished(trial, float(trial.values["optimizer.learning_rate"])))
    assert search.propose() is None


def test_objectives_are_swept_and_those_that_do_not_go_with_the_model_left_out(tmp_path: Path) -> None:
    space = {"objective.name": ["next_token", "masked"], "model.causal": [True, False]}
    search = search_of(config(tmp_path, space, **{"model.vocab_size": 257}))
    assert [tuple(trial.values.values()) for trial in search.planned] == [("next_token", True), ("masked", False)]
    problems = [trial.problem for trial in search.trials.values() if trial.status == "impossible"]
    assert len(problems) == 2
    assert all(problem.startswith("model.causal = ") for problem in problems)


def test_importance_finds_the_field_that_matters(tmp_path: Path) -> None:
    asked = config(tmp_path, {"model.num_hashes": [1, 2, 4], "train.seed": [0, 1, 2]})
    trials = [finished(t, float(t.values["model.num_hashes"])) for t in search_of(asked).planned]
    shares = importance(asked.tune, trials, "loss")
    assert shares["model.num_hashes"] > 0.9
    assert importance(asked.tune, trials[:2], "loss") == {}


def test_importance_compares_the_trials_in_which_every_field_matters(tmp_path: Path) -> None:
    space = {
        "model.layers": ["lsh", "full"],
        "model.num_hashes": {"choice": [1, 2, 4], "when": {"model.layers": "lsh"}},
        "model.lsh_window": {"choice": [8, 16], "when": {"model.layers": "lsh"}},
    }
    asked = config(tmp_path, space)
    trials = [finished(t, float(t.values.get("model.num_hashes", 100))) for t in search_of(asked).planned]
    assert len(trials) == 7
    compared = comparable(trials)
    assert [trial.values["model.layers"] for trial in compared] == ["lsh"] * 6
    shares = importance(asked.tune, trials, "loss")
    assert shares["model.num_hashes"] > 0.9
    picture = pictures.importances({"loss": shares}, compared, trials)
    assert "6 trials with layers lsh" in picture.axes[0].get_xlabel()
