"""A space that cannot be swept, told in one line."""

from pathlib import Path

import pytest

from reformer_dist.errors import ConfigError
from reformer_dist.planning import spaces
from reformer_dist.planning.known import Known
from tests.tuning.trials import config


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, r"tune\.space = \{\} names no field; .* works"),
        ({"model.num_hashes": []}, r"tune\.space gives no values for model\.num_hashes; .* works"),
        ({"model.num_hash": [1]}, r"unknown field model\.num_hash; did you mean model\.num_hashes\?"),
        ({"tracking.uri": ["x"]}, r"tune\.space names tracking\.uri, which does not change a training"),
        ({"train.run_name": ["x"]}, r"tune\.space names train\.run_name, which does not change a training"),
        ({"model.num_hashes": {"int": [4, 1]}}, r"int = \[4, 1\] must be smallest < largest"),
        ({"optimizer.learning_rate": {"loguniform": [0, 1]}}, r"must be 0 < smallest < largest"),
        ({"model.num_hashes": {"into": [1, 4]}}, r"has into, which is none of choice"),
        ({"optimizer.learning_rate": {"uniform": [0.1, 1]}}, r"grid needs points of an interval"),
        ({"train.seed": {"choice": [1], "when": {"model.causal": True}}}, r"must stand before it in the space"),
    ],
)
def test_a_wrong_space_is_one_line(tmp_path: Path, space: object, message: str) -> None:
    def ask() -> None:
        asked = config(tmp_path, space)
        spaces.fields(asked, Known())
        spaces.grid(asked, Known())

    with pytest.raises(ConfigError, match=message) as error:
        ask()
    assert "\n" not in str(error.value)


def test_what_is_not_offered_is_told_with_what_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tune\.scheduler = 'pbt' should be 'none' or 'asha'"):
        config(tmp_path, {"model.num_hashes": [1]}, **{"tune.scheduler": "pbt"})
