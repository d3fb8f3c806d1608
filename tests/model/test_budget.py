"""The budget: defaults, what the configuration says of it, and what it refuses."""

from dataclasses import fields

import pytest

from reformer_dist.config import ModelConfig
from reformer_dist.model.budget import Budget


def test_the_configurations_chunks_rule() -> None:
    budget = Budget.of(ModelConfig(feed_forward_chunk=64, loss_chunk=128))
    assert (budget.feed_forward_tokens, budget.loss_tokens) == (64, 128)


def test_defaults_of_the_chunks_are_the_configurations() -> None:
    assert Budget.of(ModelConfig()) == Budget()


@pytest.mark.parametrize("name", [field.name for field in fields(Budget)])
def test_nothing_at_a_time_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"budget.{name} = 0 must be at least 1; .* works"):
        Budget(**{name: 0})
