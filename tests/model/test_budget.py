"""The budget: defaults, what the configuration says of it, what it refuses, and that limits are nowhere else."""

import ast
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from reformer_dist.config import ModelConfig
from reformer_dist.model.budget import Budget
from tests.model.models import draw_tokens, make_model

PACKAGE = Path(__file__).parents[2] / "reformer_dist"
NO_LIMITS = {
    "model/attention/lsh/hash_health.py": {"NUM_QUERIES"},  # of a statistic
    "model/backends/products.py": {"LEAST_MULTIPLICATIONS"},  # of the processor
    "model/backends/triton/launch.py": {"MAX_HEAD_DIM", "MIN_BLOCK"},  # of the hardware
    "model/randomness.py": {"_MASK_64", "_GOLDEN", "_LANES"},  # of the arithmetic
    "parallel/buckets/routing.py": {"_NEVER"},  # larger than what they are compared with
    "parallel/segments.py": {"ALIGNMENT"},  # of the processor
    "model/backends/orders.py": {"LAST"},
}
"""Integers in model/ and parallel/ that say nothing of how much exists at a time, by file."""
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
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    bodies = [
        tree.body,
        *(node.body for node in classes if not any("Enum" in ast.unparse(base) for base in node.bases)),
    ]
    for node in (node for body in bodies for node in body):
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        names = [target.id for target in targets if isinstance(target, ast.Name)]
        value = getattr(node, "value", None)
        if names and value is not None and all(isinstance(x, ARITHMETIC) for x in ast.walk(value)):
            result = eval(compile(ast.Expression(value), "constant", "eval"))
            if isinstance(result, int) and result > 1:
                yield from names


def found_outside(room: str) -> dict[str, set[str]]:
    """Integer constants of a room's files, without the budget's own and the numbers of enumerations."""
    found = {}
    for path in sorted((PACKAGE / room).rglob("*.py")):
        names = set(integer_constants(path.read_text(encoding="utf-8")))
        if names and path.name != "budget.py":
            found[path.relative_to(PACKAGE).as_posix()] = names
    return found


@pytest.mark.parametrize("room", ["model", "parallel"])
def test_limits_are_in_the_budget_alone(room: str) -> None:
    expected = {path: names for path, names in NO_LIMITS.items() if path.startswith(f"{room}/")}
    assert found_outside(room) == expected


@pytest.mark.parametrize("line", ["_AT_A_TIME = 1 << 13", "LIMIT: int = 2048", "class Layer:\n    chunk = 18 * 2**20"])
def test_a_limit_elsewhere_is_seen(line: str) -> None:
    assert len(list(integer_constants(line))) == 1


def test_a_models_budget_stays_under_other_settings() -> None:
    model = make_model({"head_elements": 1, "stretch_entries": 8})
    assert model.with_settings(num_hashes=2).budget == model.budget
    assert model.with_settings(loss_chunk=3).budget == Budget(feed_forward_tokens=9, loss_tokens=3)


def test_small_limits_change_nothing_of_plain_attention() -> None:
    """Hashing, lists and slices by few entries at a time, without the compiled operators."""
    limits = {"rotated_elements": 1, "stretch_entries": 1, "sliced_entries": 1}
    whole, pieces = (make_model(x, attention_kernel="plain").eval() for x in ({}, limits))
    tokens = draw_tokens(51)
    assert torch.allclose(whole(tokens), pieces(tokens), rtol=0, atol=1e-12)
