"""Muon in one process against torch's, what it does to which weights, and who owns a matrix."""

import math
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.optim import _muon

from reformer_dist.checkpoints import optimizer_state
from reformer_dist.config import ModelConfig, OptimizerConfig
from reformer_dist.model.choice import make_model
from reformer_dist.training.engine.matrix_exchange import choose_owners
from reformer_dist.training.engine.muon import Muon, orthogonalize
from reformer_dist.training.engine.optimizer import make_optimizer
from tests.ranks import run_ranks

SHAPES = [(8, 8), (24, 7), (7, 24), (1, 5)]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", SHAPES)
def test_orthogonal_with_the_same_singular_vectors(shape: tuple[int, int]) -> None:
    matrix = random(*shape)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    core = left.T @ orthogonalize(matrix) @ right.T
    assert 0.6 < core.diagonal().min() <= core.diagonal().max() < 1.3
    torch.testing.assert_close(core, core.diagonal().diag(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_orthogonal_as_torch_rounds_it(shape: tuple[int, int]) -> None:
    """torch computes in bfloat16, whose 2^-9 five iterations let grow: 0.013 was the most of these matrices."""
    matrix = random(*shape).float()
    theirs = _muon._zeropower_via_newtonschulz(matrix, (3.4445, -4.7750, 2.0315), 5, 1e-7)
    torch.testing.assert_close(orthogonalize(matrix), theirs.float(), rtol=0, atol=0.03)


def test_a_matrix_of_zeros_stays() -> None:
    assert torch.equal(orthogonalize(torch.zeros(3, 4)), torch.zeros(3, 4))


def pair(shape: tuple[int, int]) -> tuple[nn.Parameter, nn.Parameter, Muon, torch.optim.Muon]:
    """The same matrix twice, with our optimizer, which has a bias beside it, and torch's."""
    module, theirs = nn.Module(), nn.Parameter(random(*shape, seed=1))
    module.stack = nn.Module()
    module.stack.weight = nn.Parameter(theirs.detach().clone())
    module.stack.bias = nn.Parameter(torch.zeros(3))
    settings = OptimizerConfig(name="muon", matrix_learning_rate=0.05, momentum=0.9, weight_decay=0.3)
    ours = make_optimizer(module, settings, lambda: optimizer_state.whole(module))
    assert isinstance(ours, Muon)
    return module.stack.weight, theirs, ours, torch.optim.Muon([theirs], lr=0.05, momentum=0.9, weight_decay=0.3)


@pytest.mark.parametrize("shape", SHAPES)
def test_steps_are_torchs_but_for_its_rounding(shape: tuple[int, int]) -> None:
    """With our orthogonal matrices in torch's optimizer four steps are equal; with its own the first is, to bfloat16."""
    ours, theirs, our_optimizer, their_optimizer = pair(shape)
    _, rounded, _, rounding_optimizer = pair(shape)

    def exact(direction: Tensor, *_: object) -> Tensor:
        return orthogonalize(direction)

    for step in range(4):
        for weight in (ours, theirs, rounded):
            weight.grad = random(*shape, seed=2 + step)
        our_optimizer.step()
        with mock.patch.object(_muon, "_zeropower_via_newtonschulz", exact):
            their_optimizer.step()
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-14)
        if step == 0:
            rounding_optimizer.step()
            atol = 0.03 * 0.05 * math.sqrt(max(1.0, shape[0] / shape[1]))
            torch.testing.assert_close(ours, rounded, rtol=0, atol=atol)


@pytest.mark.parametrize("encoder_layers", [(), ("local",)])
def test_only_matrices_of_layers_have_muons_state(encoder_layers: tuple[Any, ...]) -> None:
    """An encoder's too."""
    sizes: dict[str, Any] = {
        "embed_dim": 16,
        "num_heads": 2,
        "feed_forward_dim": 32,
        "max_length": 16,
        "num_buckets": 4,
    }
    model = make_model(ModelConfig(encoder_layers=encoder_layers, **sizes))
    optimizer = make_optimizer(model, OptimizerConfig(name="muon"), lambda: optimizer_state.whole(model))
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    for name, weight in model.named_parameters():
        of_muon = name.startswith(("stack.", "encoder.stack.")) and weight.ndim == 2
        assert set(optimizer.state[weight]) == (
            {"momentum_buffer"} if of_muon else {"step", "exp_avg", "exp_avg_sq"}
        ), name
    rates = {len(group["params"]): (group["peak_lr"], group["weight_decay"]) for group in optimizer.param_groups}
    assert set(rates.values()) == {(1e-3, 0.01), (1e-3, 0.0), (0.02, 0.01)}


def test_owners_share_the_cost_and_keep_what_they_hold() -> None:
    in_a_layer = {"query": (64, 64), "value": (64, 64), "output": (64, 64), "inner": (256, 64), "outer": (64, 256)}
    shapes = {f"{layer}.{name}": torch.Size(shape) for layer in range(6) for name, shape in in_a_layer.items()}
    sizes = {name: shape.numel() for name, shape in shapes.items()}
    everywhere = [{name: (0, size) for name, size in sizes.items()}] * 4
    owners = choose_owners(shapes, everywhere)
    costs = {name: 64 * 64 * (2 * max(shape) + 64) for name, shape in shapes.items()}
    loads = [sum(costs[name] for name, owner in owners.items() if owner == rank) for rank in range(4)]
    assert max(loads) <= 1.1 * sum(loads) / 4
    halves = [{name: (0, size) for name, size in sizes.items() if int(name[0]) // 3 == rank} for rank in range(2)]
    assert choose_owners(shapes, halves) == {name: int(name[0]) // 3 for name in shapes}
    assert set(choose_owners(shapes, [everywhere[0], {}]).values()) == {0, 1}, "one that holds all does not do all"


def step_of_few_matrices(seed: int) -> list[Tensor]:
    """A step without ZeRO, with fewer matrices than workers: both after it."""
    module = nn.Module()
    module.stack = nn.ParameterList([random(3, 5, seed=seed), random(5, 2, seed=seed + 1)])
    optimizer = make_optimizer(module, OptimizerConfig(name="muon"), lambda: optimizer_state.whole(module))
    for weight in module.stack:
        weight.grad = weight.detach().clone()
    optimizer.step()
    return [weight.detach() for weight in module.stack]


def test_more_workers_than_matrices() -> None:
    expected = step_of_few_matrices(0)
    for weights in run_ranks(step_of_few_matrices, 4, 0):
        torch.testing.assert_close(weights, expected, rtol=0, atol=1e-14)
