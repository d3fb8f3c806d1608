"""The values of a sweep's space."""

import pytest

from reformer_dist.config.space import combinations, parse_space


def test_conditions_leave_out_what_does_not_matter() -> None:
    space = parse_space(
        {
            "model.layers": ["local,lsh", "local,full"],
            "model.lsh_window": {"choice": [16, 32], "when": {"model.layers": "local,lsh"}},
            "optimizer.learning_rate": {"loguniform": [0.001, 0.1], "points": 3},
        }
    )
    every = list(combinations(space))
    assert len(every) == 2 * 3 + 3
    assert {values.get("model.lsh_window") for values in every if values["model.layers"] == "local,full"} == {None}
    assert [v["optimizer.learning_rate"] for v in every[:3]] == pytest.approx([0.001, 0.01, 0.1])
