"""Reversible blocks give plain autograd's gradients, in memory that does not grow with depth."""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from reformer_dist import ReformerLM
from reformer_dist.config.sections.model import KEEP_LEVELS, KeepLevel
from reformer_dist.model import keeping
from reformer_dist.model.backends.plain import sequences
from reformer_dist.model.context import Context
from tests.model.models import OPTIONS, draw_tokens, make_model

LENGTH = 51
DROPOUT = {"attention_dropout": 0.1, "hidden_dropout": 0.2}


def _documents() -> Tensor:
    documents = torch.arange(LENGTH) // 20
    documents[-3:] = -1
    return documents.expand(3, -1)


def _backward(model: ReformerLM, step: int = 3) -> Tensor:
    labels = draw_tokens(LENGTH, seed=1)
    labels[:, :5] = -100
    loss, count = model.loss(draw_tokens(LENGTH), labels, documents=_documents(), step=step)
    (loss / count).backward()
    return loss.detach()


def _gradients(model: ReformerLM) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def _assert_same(ours: ReformerLM, plain: ReformerLM, tolerance: float = 1e-10) -> None:
    ours_gradients, plain_gradients = _gradients(ours), _gradients(plain)
    assert ours_gradients.keys() == plain_gradients.keys()
    assert ours_gradients
    for name, gradient in plain_gradients.items():
        scale = float(gradient.abs().max()) + 1e-12
        torch.testing.assert_close(ours_gradients[name], gradient, rtol=0, atol=tolerance * scale, msg=name)


def _pair(limits: dict[str, int] | None = None, **changes: Any) -> tuple[ReformerLM, ReformerLM]:
    """One that undoes its layers, within the limits, and one for plain autograd."""
    return make_model(limits, **changes).train(), make_model(reversible=False, **changes).train()


@pytest.mark.parametrize("mode", ["window", "chunked", "paper"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_embeddings": True, "rotary": True},
        {"causal": False},
        {"positions": "learned", "activation": "relu"},
        OPTIONS,
    ],
    ids=str,
)
def test_gradients_equal_plain_autograd_with_dropout(changes: dict[str, Any], mode: str) -> None:
    ours, plain = _pair(lsh_mode=mode, **DROPOUT, **changes)
    assert _backward(ours) == pytest.approx(_backward(plain).item(), rel=1e-12)
    _assert_same(ours, plain)


@pytest.mark.parametrize(
    "changes",
    [{}, {"causal": False}, {"hash_seed": 5, "lsh_mode": "chunked", "rotary": True, "lsh_rotary": True}, OPTIONS],
    ids=str,
)
def test_head_groups_and_pieces_change_nothing(changes: dict[str, Any]) -> None:
    """As a long sequence is worked through: one head at a time, few tokens at a time."""
    ours, plain = _pair({"head_elements": 1, "projected_tokens": 7}, local_window=6, **DROPOUT, **changes)
    assert _backward(ours) == pytest.approx(_backward(plain).item(), rel=1e-12)
    _assert_same(ours, plain)


ALTERNATING = ("streams", "nothing", "products", "nothing")


@pytest.mark.parametrize(
    "changes", [{}, {"causal": False}, {"lsh_mode": "chunked", "activation": "relu"}, OPTIONS], ids=str
)
@pytest.mark.parametrize("keep", [*((level,) for level in KEEP_LEVELS), ALTERNATING], ids=str)
def test_what_is_kept_changes_no_gradient(keep: tuple[KeepLevel, ...], changes: dict[str, Any]) -> None:
    """A second backward pass makes again what the first had kept."""
    limits = {"head_elements": 1, "projected_tokens": 16}
    ours, plain = _pair(limits, keep=keep, **DROPOUT, **changes)
    for model in (ours, plain):
        loss, _ = model.loss(draw_tokens(LENGTH), draw_tokens(LENGTH, seed=1), documents=_documents(), step=3)
        loss.backward(retain_graph=True)
        (2 * loss).backward()
    _assert_same(ours, plain)


def test_each_level_has_less_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products and attention of a step, forward and backward pass together, by level; in the end as of plain autograd."""
    made: list[str] = []

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            made.append(name)
            return function(*arguments, **named)

        return call

    monkeypatch.setattr(keeping, "linear", counted("product", keeping.linear))
    monkeypatch.setattr(sequences, "_attended", counted("attention", sequences._attended))
    counts = {}
    for settings in (*({"keep": (level,)} for level in KEEP_LEVELS), {"reversible": False}):
        made.clear()
        layers = ("local", "lsh")
        model = make_model(layers=layers, attention_kernel="plain", feed_forward_chunk=64, **settings).train()
        model.loss(draw_tokens(LENGTH), draw_tokens(LENGTH))[0].backward()
        counts[str(settings)] = made.count("product"), made.count("attention")
    # Five projections, the feed-forward layers' two first products, and four that write into a stream.
    assert list(counts.values()) == [(22, 4), (18, 4), (18, 2), (13, 2), (11, 2), (11, 2)]


@pytest.mark.parametrize("keep", [("nothing",), ("products",), ALTERNATING, ALTERNATING[::-1]], ids=str)
def test_streams_that_others_hold_are_left_alone(keep: tuple[KeepLevel, ...]) -> None:
    model = make_model(keep=keep, **DROPOUT).train()
    x = torch.randn(2, LENGTH, model.config.embed_dim, dtype=torch.float64, requires_grad=True)
    first, second = model.stack(x, x, Context())
    copies = first.detach().clone(), second.detach().clone()
    grad = torch.randn_like(first)
    kept = grad.clone()
    before = x.detach().clone()
    for _ in range(2):
        torch.autograd.backward((first, second), (grad, grad), retain_graph=True)
        assert torch.equal(first, copies[0])
        assert torch.equal(second, copies[1])
        assert torch.equal(grad, kept)
        assert torch.equal(x, before)


def test_gradients_accumulate_over_steps() -> None:
    ours, plain = _pair(**DROPOUT)
    for step in (1, 2, 3):
        _backward(ours, step)
        _backward(plain, step)
    _assert_same(ours, plain)


def test_a_second_backward_pass_through_one_graph() -> None:
    ours, plain = _pair(**DROPOUT)
    for model in (ours, plain):
        loss, _ = model.loss(draw_tokens(LENGTH), draw_tokens(LENGTH, seed=1), step=2)
        loss.backward(retain_graph=True)
        (2 * loss).backward()
    _assert_same(ours, plain)


@pytest.mark.parametrize("frozen", ["embedding", "positions", "stack.blocks.1", "stack", "attention", "output"])
def test_frozen_parameters(frozen: str) -> None:
    ours, plain = _pair(**DROPOUT)
    for model in (ours, plain):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(frozen not in name)
        _backward(model)
    _assert_same(ours, plain)


def test_frozen_embeddings_of_both_kinds_leave_the_blocks_their_gradients() -> None:
    ours, plain = _pair()
    for model in (ours, plain):
        model.embedding.requires_grad_(False)
        model.positions.requires_grad_(False)
        _backward(model)
    _assert_same(ours, plain)


def test_gradients_under_autocast() -> None:
    """Without autocast in the undoing they differ by 4e-3.

    Feed-forward layers go in one piece, since a weight's gradient in bfloat16 is rounded once a piece, and plain autograd
    has one.
    """
    gradients = []
    for reversible in (True, False):
        model = make_model(reversible=reversible, feed_forward_chunk=LENGTH, **DROPOUT).float().train()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss, count = model.loss(draw_tokens(LENGTH), draw_tokens(LENGTH, seed=1), step=2)
        (loss / count).backward()
        gradients.append(torch.cat([g.flatten() for g in _gradients(model).values()]))
    ours, plain = gradients
    assert (ours - plain).norm() / plain.norm() < 1e-3


def test_dropout_differs_between_steps_and_rows_and_layers() -> None:
    model = make_model(**DROPOUT).train()
    tokens = draw_tokens(20, batch=1).repeat(2, 1)
    one, other = model(tokens, step=1), model(tokens, step=2)
    assert not torch.allclose(one, other)
    assert not torch.allclose(one[0], one[1])
    assert torch.equal(one, model(tokens, step=1))
    torch.testing.assert_close(one[1:], model(tokens[1:], step=1, first_row=1), rtol=0, atol=1e-12)
    assert torch.equal(model.eval()(tokens, step=1), model(tokens, step=2))


def _peak_growth(num_layers: int, reversible: bool) -> float:
    """MiB that a training step adds to a fresh process's peak, beyond the model and its gradients."""
    script = f"""
import torch
from reformer_dist import ModelConfig, ReformerLM
torch.set_num_threads(1)
model = ReformerLM(ModelConfig(embed_dim=128, feed_forward_dim=128, num_heads=2, layers=("local", "lsh") * {num_layers // 2},
    max_length=8192, num_hashes=2, reversible={reversible}, feed_forward_chunk=512, loss_chunk=512)).train()
tokens = torch.randint(256, (1, 8192), generator=torch.Generator().manual_seed(0))
for parameter in model.parameters():
    parameter.grad = torch.zeros_like(parameter)
def peak():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])  # ru_maxrss would hold the parent's too
before = peak()
model.loss(tokens, tokens)[0].backward()
print((peak() - before) / 1024)
"""
    # A fixed threshold returns freed tensors to the system at once; glibc's moving one keeps up to a fifth of the peak.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"}
    result = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    return float(result.stdout)


def test_memory_does_not_grow_with_depth() -> None:
    """Ten layers' step takes a reversible model as much memory as two layers'; plain autograd several times as much."""
    shallow, deep = _peak_growth(2, reversible=True), _peak_growth(10, reversible=True)
    plain = _peak_growth(10, reversible=False)
    assert deep < 1.1 * shallow
    assert plain > 2 * deep
