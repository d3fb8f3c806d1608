"""What holds for every attention kind in a model of it alone; its line in `KINDS` has it tested.

That a kind computes what it should is shown beside these by a plain reference of its own, see test_attention.py.
"""

from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from reformer_dist import ReformerLM
from reformer_dist.config.sections.model import LayerName
from reformer_dist.generation.decoding import Decoder
from reformer_dist.model.attention.kinds import KINDS, explain_model
from tests.model.models import VOCABULARY, draw_tokens, make_model

LENGTH = 51


def _model(name: str, limits: dict[str, int] | None = None, **changes: Any) -> ReformerLM:
    return make_model(limits, layers=(name, name), **changes)


def _backward(model: ReformerLM) -> tuple[Tensor, dict[str, Tensor | None]]:
    documents = (torch.arange(LENGTH) > 20).long().expand(3, -1)
    loss, _ = model.train().loss(draw_tokens(LENGTH), draw_tokens(LENGTH, seed=1), documents=documents, step=3)
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters()}


def test_the_configuration_names_what_there_is() -> None:
    assert set(KINDS) == set(get_args(LayerName))


@pytest.mark.parametrize("name", KINDS)
def test_later_tokens_change_nothing(name: str) -> None:
    model, tokens = _model(name), draw_tokens(LENGTH)
    for start in range(1, LENGTH, 7):
        changed = tokens.clone()
        changed[:, start:] = (changed[:, start:] + 1) % VOCABULARY
        torch.testing.assert_close(model(changed)[:, :start], model(tokens)[:, :start], rtol=0, atol=1e-10)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("name", KINDS)
def test_neither_other_documents_nor_padding_change_anything(name: str, causal: bool) -> None:
    model, lengths = _model(name, causal=causal), (23, 18, 10)
    texts = [draw_tokens(length, seed=length) for length in lengths]
    documents = torch.repeat_interleave(torch.tensor([0, 1, -1]), torch.tensor(lengths)).expand(3, -1)
    positions = torch.cat([torch.arange(length) for length in lengths]).expand(3, -1)
    packed = model(torch.cat(texts, dim=1), positions, documents).split(lengths, dim=1)
    for number in (0, 1):
        torch.testing.assert_close(packed[number], model(texts[number]), rtol=0, atol=1e-10)


@pytest.mark.parametrize("limits", [{}, {"head_elements": 1, "projected_tokens": 7}], ids=str)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("name", KINDS)
def test_gradients_of_the_undone_layer_equal_plain_autograd(name: str, causal: bool, limits: dict[str, int]) -> None:
    settings = {"causal": causal, "attention_dropout": 0.1, "hidden_dropout": 0.2, "local_window": 5}
    loss, expected = _backward(_model(name, reversible=False, **settings))
    loss_undone, gradients = _backward(_model(name, limits, **settings))
    assert loss_undone == pytest.approx(loss.item(), rel=1e-12)
    for parameter, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[parameter], rtol=0, atol=1e-10, msg=parameter)


@pytest.mark.parametrize("name", KINDS)
def test_steps_equal_the_whole(name: str) -> None:
    model, tokens = _model(name), draw_tokens(LENGTH)
    decoder = Decoder(model)
    parts = [decoder.read(tokens[:, :20]), decoder.read(tokens[:, 20:30])]
    parts += [decoder.read(tokens[:, i : i + 1]) for i in range(30, LENGTH)]
    torch.testing.assert_close(torch.cat(parts, dim=1), model(tokens), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", KINDS)
def test_what_computes_it_is_said(name: str) -> None:
    words = explain_model(_model(name).config, torch.device("cpu"), torch.float32)
    assert words.startswith(f"attention of {name} layers: ")
