"""The schedules' learning rates."""

import pytest
import torch
from torch import nn

from reformer_dist.config import OptimizerConfig
from reformer_dist.training.engine.optimizer import learning_rate, make_optimizer, set_learning_rates


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1, 1, 1, 1, 1, 1, 1, 1, 1]),
        ("linear", [1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2]),
        ("wsd", [1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2]),
    ],
)
def test_rates_after_two_steps_of_warm_up(schedule: str, expected: list[float]) -> None:
    """Eleven steps, the last of which has a fifth of the peak; wsd falls from step 6 on, four tenths before the end."""
    config = OptimizerConfig(learning_rate=3.0, schedule=schedule, warmup_steps=2, final_fraction=0.2, decay_share=0.4)
    rates = [learning_rate(config, step, 11) for step in range(11)]
    assert rates == pytest.approx([1.0, 2.0, *(3.0 * share for share in expected)])


def test_cosine_is_half_way_in_the_middle() -> None:
    config = OptimizerConfig(learning_rate=3.0, schedule="cosine", warmup_steps=2, final_fraction=0.2)
    assert [learning_rate(config, step, 11) for step in (2, 6, 10)] == pytest.approx([3.0, 1.8, 0.6])


def test_wsd_never_falls_before_the_warm_up_ends() -> None:
    config = OptimizerConfig(learning_rate=1.0, schedule="wsd", warmup_steps=8, final_fraction=0.0, decay_share=1.0)
    assert [learning_rate(config, step, 11) for step in (8, 9, 10)] == pytest.approx([1.0, 0.5, 0.0])


def test_matrices_have_a_peak_of_their_own() -> None:
    module = nn.Module()
    module.stack = nn.ParameterList([torch.zeros(2, 2), torch.zeros(2)])
    config = OptimizerConfig(name="muon", learning_rate=0.1, matrix_learning_rate=0.4, warmup_steps=3)
    optimizer = make_optimizer(module, config, lambda: [])
    set_learning_rates(optimizer, config, 1, 10)
    rates = {weight.ndim: group["lr"] for group in optimizer.param_groups for weight in group["params"]}
    assert rates == pytest.approx({2: 0.2, 1: 0.05})
