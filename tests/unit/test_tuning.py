"""A sweep's plan: every combination once, impossible ones named, a wrong space refused in one line, room without waiting."""

from pathlib import Path

import pytest

from reformer_dist import Config, load_config
from reformer_dist.config import ConfigError
from reformer_dist.tuning import Trial, plan, ranked, room


def config(tmp_path: Path, space: object, **fields: object) -> Config:
    return load_config(None, {"tune.space": space, "train.storage": str(tmp_path), "model.num_heads": 4, **fields})


def test_every_combination_is_planned_and_the_impossible_say_why(tmp_path: Path) -> None:
    space = {"model.num_hashes": ["1", 2], "train.workers": [2, 3], "model.layers": ["local,lsh"]}
    fields = {"parallel.sequence_shards": 2, "train.workers": 2, "optimizer.learning_rate": 0.5}
    trials = plan(config(tmp_path, space, **fields))
    assert [tuple(trial.values.values()) for trial in trials] == [
        ("1", 2, "local,lsh"), ("1", 3, "local,lsh"), (2, 2, "local,lsh"), (2, 3, "local,lsh"),
    ]  # fmt: skip
    configs = [trial.config for trial in trials]
    assert configs[1] is configs[3] is None
    assert "train.workers = 3 is not a multiple of parallel.sequence_shards = 2; 4 works" in trials[1].problem
    assert configs[0] is not None
    assert configs[2] is not None
    assert (configs[0].model.num_hashes, configs[2].model.num_hashes) == (1, 2)
    assert configs[2].model.layers == ("local", "lsh")
    assert configs[2].optimizer.learning_rate == 0.5


def test_another_sweep_of_the_same_name_starts_anew(tmp_path: Path) -> None:
    asked = config(tmp_path, {"train.seed": [0, 1]})
    names = {trial.config.train.run_name for trial in plan(asked) if trial.config}
    (tmp_path / asked.train.run_name / "1").mkdir(parents=True)
    again = {trial.config.train.run_name for trial in plan(asked) if trial.config}
    assert len(names) == len(again) == 2
    assert not names & again


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, r"tune\.space = \{\} names no field; .* works"),
        ({"model.num_hashes": []}, r"tune\.space gives no values for model\.num_hashes; .* works"),
        ({"model.num_hash": [1]}, r"unknown field model\.num_hash; did you mean model\.num_hashes\?"),
        ({"tracking.uri": ["x"]}, r"tune\.space names tracking\.uri, which does not change a training"),
        ({"train.run_name": ["x"]}, r"tune\.space names train\.run_name, which does not change a training"),
        ({"model.num_hashes": ["many"]}, r"none of 1 combinations is possible: model\.num_hashes = 'many'"),
    ],
)
def test_a_wrong_space_is_one_line(tmp_path: Path, space: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        plan(config(tmp_path, space))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("workers", "resources", "expected"),
    [
        ([1], {"CPU": 2.0}, 2),
        ([2], {"CPU": 2.0}, 1),
        ([1, 3], {"CPU": 8.0}, 2),
        ([8], {"CPU": 2.0}, 1),
    ],
)
def test_trials_at_a_time_all_have_room_for_their_workers(
    tmp_path: Path, workers: list[int], resources: dict[str, float], expected: int
) -> None:
    configs = [config(tmp_path, {}, **{"train.workers": number, "train.batch_size": number}) for number in workers]
    assert room(configs, resources) == expected


def test_gpus_bound_the_trials_at_a_time(tmp_path: Path) -> None:
    asked = config(tmp_path, {}, **{"train.workers": 2, "train.batch_size": 2, "train.use_gpu": True})
    assert room([asked], {"CPU": 64.0, "GPU": 5.0}) == 2


def test_the_best_trial_comes_first_and_those_with_a_problem_last() -> None:
    some = Config()
    impossible = Trial({}, problem="does not fit")
    failed = Trial({}, some, problem="died")
    bad, good = (Trial({}, some, metrics={"validation/bits_per_token": bits}) for bits in (3.0, 2.0))
    assert ranked([impossible, bad, failed, good]) == (good, bad, failed, impossible)
