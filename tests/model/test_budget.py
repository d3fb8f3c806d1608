"""The budget: defaults, what the configuration says of it, what it refuses, and that limits are nowhere else."""

import ast
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from reformer_dist.config import ModelConfig
from reformer_dist.model.budget import Budget
from tests.model.models import draw_tokens, make_model

PACKAGE = Path(__file__).parents[2] / "reformer_dist"
ARITHMETIC = (ast.Constant, ast.BinOp, ast.operator)


def test_the_configurations_chunks_rule() -> None:
    budget = Budget.of(ModelConfig(feed_forward_chunk=64, loss_chunk=128))
    assert (budget.feed_forward_tokens, budget.loss_tokens) == (64, 128)


def test_defaults_of_the_chunks_are_the_configurations() -> None:
    assert Budget.of(ModelConfig()) == Budget()


@pytest.mark.parametrize("name", [field.name for field in fields(Budget)])
def test_nothing_at_a_time_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"budget.{name} = 0 must be at least 1; .* works"):
        Budget(**{name: 0})


def integer_constants(source: str) -> Iterator[str]:
    """Names of a module and its classes that are assigned an integer of at least 2, or arithmetic of integers."""
    tree = ast.parse(source)
    bodies = [tree.body, *(node.body for node in tree.body if isinstance(node, ast.ClassDef))]
    for node in (node for body in bodies for node in body):
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        names = [target.id for target in targets if isinstance(target, ast.Name)]
        value = getattr(node, "value", None)
        if names and value is not None and all(isinstance(x, ARITHMETIC) for x in ast.walk(value)):
            result = eval(compile(ast.Expression(value), "constant", "eval"))  # noqa: S307 - of numbers alone
            if isinstance(result, int) and result > 1:
                yield from names
