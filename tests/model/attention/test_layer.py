"""Heads of two kinds side by side in one attention layer, which no configuration asks for yet."""

from typing import Any

import pytest
import torch
from torch import Tensor

from reformer_dist import ModelConfig, ReformerLM
from reformer_dist.generation.decoding import Decoder
from reformer_dist.model.attention import layer as attention
from reformer_dist.model.attention.head_group import HeadGroup
from reformer_dist.model.attention.layer import Attention
from reformer_dist.model.attention.local_kind import LocalKind
from reformer_dist.model.attention.lsh.kind import LSHKind
from reformer_dist.model.budget import Budget
from reformer_dist.model.context import Context
from tests.model.models import draw_tokens, make_model

LENGTH = 51


def local_beside_lsh(config: ModelConfig, layer: int, budget: Budget) -> list[HeadGroup]:
    """The first third of the heads local, the others LSH."""
    first = config.num_heads // 3
    local, lsh = LocalKind(config, layer, budget), LSHKind(config, layer, budget)
    return [HeadGroup(local, slice(0, first)), HeadGroup(lsh, slice(first, config.num_heads))]


@pytest.fixture
def side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "make_head_groups", local_beside_lsh)


def _model(limits: dict[str, int] | None = None, **changes: Any) -> ReformerLM:
    return make_model(limits, num_heads=3, layers=("lsh", "lsh"), **changes).train()


def _backward(model: ReformerLM) -> tuple[Tensor, dict[str, Tensor | None]]:
    loss, _ = model.loss(draw_tokens(LENGTH), draw_tokens(LENGTH, seed=1), step=3)
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters()}


def test_a_layer_is_the_sum_of_its_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind's heads compute what a layer of theirs alone computes with the same weights."""
    model, x = make_model(num_heads=3, hash_seed=5), torch.randn(2, LENGTH, 12, dtype=torch.float64)
    config = model.config
    local, lsh = (model.stack.blocks[i].attention for i in (0, 1))
    monkeypatch.setattr(attention, "make_head_groups", local_beside_lsh)
    both = Attention(config, 1, model.budget).double()
    shapes = {name: tuple(parameter.shape) for name, parameter in both.named_parameters() if "norm" not in name}
    assert shapes == {
        "query_weight": (4, 12),
        "key_weight": (4, 12),
        "value_weight": (12, 12),
        "query_key_weight": (8, 12),
        "output_weight": (12, 12),
        "convolution_weight": (12, 1, 4),
    }
    with torch.no_grad():
        for layer in (both, local):
            layer.convolution_weight.copy_(lsh.convolution_weight)
        both.query_weight.copy_(local.query_weight[:4])
        both.key_weight.copy_(local.key_weight[:4])
        both.query_key_weight.copy_(lsh.query_key_weight[4:])
        both.value_weight.copy_(torch.cat([local.value_weight[:4], lsh.value_weight[4:]]))
        both.output_weight.copy_(torch.cat([local.output_weight[:, :4], lsh.output_weight[:, 4:]], dim=1))
        local.output_weight[:, 4:] = 0
        lsh.output_weight[:, :4] = 0
        expected = local.contribute(x, Context())[0] + lsh.contribute(x, Context())[0]
        torch.testing.assert_close(both.contribute(x, Context())[0], expected, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("side_by_side")
@pytest.mark.parametrize("limits", [{}, {"head_elements": 1, "projected_tokens": 7}], ids=str)
def test_gradients_equal_plain_autograd(limits: dict[str, int]) -> None:
    settings = {"attention_dropout": 0.1, "hidden_dropout": 0.2, "local_window": 5}
    loss, expected = _backward(_model(reversible=False, **settings))
    loss_undone, gradients = _backward(_model(limits, **settings))
    assert loss_undone == pytest.approx(loss.item(), rel=1e-12)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-10, msg=name)


@pytest.mark.usefixtures("side_by_side")
@pytest.mark.parametrize("changes", [{}, {"hash_seed": 3}], ids=str)
def test_steps_equal_the_whole(changes: dict[str, Any]) -> None:
    model, tokens = _model(**changes).eval(), draw_tokens(LENGTH)
    decoder = Decoder(model)
    parts = [decoder.read(tokens[:, :20])] + [decoder.read(tokens[:, i : i + 1]) for i in range(20, LENGTH)]
    torch.testing.assert_close(torch.cat(parts, dim=1), model(tokens), rtol=0, atol=1e-10)
