"""Which backend computes what, and what it says of the choice."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from reformer_dist.config import ModelConfig
from reformer_dist.model.attention.kinds import explain_model
from reformer_dist.model.attention.local import local_attention
from reformer_dist.model.backends import choice
from reformer_dist.model.backends.backend import Work
from reformer_dist.model.backends.choice import BACKENDS, choose, explain
from reformer_dist.model.backends.description import OrderedTokens
from reformer_dist.model.backends.native import build
from reformer_dist.model.backends.plain.backend import Plain
from reformer_dist.model.backends.triton import launch

CPU, GPU = torch.device("cpu"), torch.device("cuda")
SINGLE = Work(CPU, torch.float32, 64)
HALF = Work(GPU, torch.bfloat16, 64)
BUILT = "compiled: float32 on a CPU with AVX512"
NOT_BUILT = "the compiled operators are not built (python -m reformer_dist.model.backends.native)"
PAPER = "paper mode is not served by the compiled operators"
NO_DROPOUT = "dropout of attention weights is not served by torch's fused attention"


@pytest.fixture(autouse=True)
def everything_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "is_loaded", lambda: True)
    monkeypatch.setattr(build, "capability", lambda: "AVX512")
    monkeypatch.setattr(launch, "is_available", lambda: True)


@pytest.fixture(autouse=True)
def there_are_five(monkeypatch: pytest.MonkeyPatch) -> None:
    """The words below are about these, whatever else there is to choose from."""
    ours = ("compiled", "compiled, widened", "triton", "fused torch code", "plain")
    monkeypatch.setattr(choice, "BACKENDS", {name: BACKENDS[name] for name in ours})


@pytest.mark.parametrize(
    ("work", "words"),
    [
        (SINGLE, BUILT),
        (replace(SINGLE, dropout=True, head_dim=300), BUILT),
        (replace(SINGLE, kernel="plain"), "plain: model.attention_kernel = plain"),
        (replace(SINGLE, once=True), f"fused torch code: {PAPER}"),
        (replace(SINGLE, once=True, dropout=True), f"plain: {PAPER}; {NO_DROPOUT}"),
        (
            replace(SINGLE, dtype=torch.bfloat16),
            "compiled, widened: bfloat16 is not served by the compiled operators",
        ),
        (
            replace(SINGLE, dtype=torch.float16),
            "plain: float16 is not served by the compiled operators; float16 is not served by torch's fused attention",
        ),
        (HALF, "triton: bfloat16 on a GPU"),
        (replace(HALF, dropout=True), "triton: bfloat16 on a GPU"),
        (replace(HALF, dtype=torch.float64), "plain: float64 is not served by the Triton kernels"),
        (replace(HALF, head_dim=300), "plain: a head width of 300, past 256, is not served by the Triton kernels"),
        (replace(HALF, once=True), "plain: paper mode is not served by the Triton kernels"),
        (replace(SINGLE, device=torch.device("mps")), "plain: float32 on a mps device"),
    ],
)
def test_choice_in_words(work: Work, words: str) -> None:
    assert explain(work) == words
    assert choose(work) is BACKENDS[words.split(":")[0]]


def test_what_is_not_built_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "is_loaded", lambda: False)
    monkeypatch.setattr(launch, "is_available", lambda: False)
    assert explain(SINGLE) == f"fused torch code: {NOT_BUILT}"
    assert explain(replace(SINGLE, dropout=True)) == f"plain: {NOT_BUILT}; {NO_DROPOUT}"
    assert explain(HALF) == "plain: Triton is not installed (pip install triton)"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, f"attention of local and lsh layers: {BUILT}"),
        (
            {"layers": ("local", "lsh", "full"), "lsh_mode": "paper"},
            f"attention of local layers: {BUILT} | attention of lsh layers: fused torch code: {PAPER} | "
            "attention of full layers: torch's scaled_dot_product_attention",
        ),
        (
            {"lsh_mode": "paper", "attention_dropout": 0.1, "local_attention_dropout": 0.0},
            f"attention of local layers: {BUILT} | attention of lsh layers: plain: {PAPER}; {NO_DROPOUT}",
        ),
        ({"attention_kernel": "plain"}, "attention of local and lsh layers: plain: model.attention_kernel = plain"),
        (
            {"encoder_layers": ("full", "local")},
            "attention of the encoder's full layers: torch's scaled_dot_product_attention | attention of the encoder's "
            f"local layers: {BUILT} | attention of the decoder's local and lsh layers: {BUILT} | "
            "full cross-attention: torch's scaled_dot_product_attention",
        ),
        (
            {"encoder_layers": ("lsh",), "layers": ("local",), "cross_attention": "lsh"},
            f"attention of the encoder's lsh layers: {BUILT} | attention of the decoder's local layers: {BUILT} | "
            "lsh cross-attention: plain torch",
        ),
    ],
)
def test_a_models_choice_is_one_line(settings: dict[str, Any], words: str) -> None:
    config = ModelConfig(**{"layers": ("local", "lsh", "local", "lsh"), **settings})
    assert explain_model(config, CPU, torch.float32) == words


class _Doubling(Plain):
    """A backend that can be told from the others by what it computes."""

    noun = "the doubling code"
    device_type = "cpu"
    dtypes = (torch.float64,)

    def attend(self, q_BTHD: Tensor, k_BTHD: Tensor | None, v_BTHD: Tensor, blocks: OrderedTokens) -> Tensor:
        return 2 * super().attend(q_BTHD, k_BTHD, v_BTHD, blocks)


def test_a_new_backend_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = torch.randn(3, 1, 20, 2, 4, dtype=torch.float64).unbind()
    before = local_attention(q, k, v, kernel="plain")
    monkeypatch.setattr(choice, "BACKENDS", {"doubling": _Doubling(), **choice.BACKENDS})
    torch.testing.assert_close(local_attention(q, k, v), 2 * before)
    assert explain(replace(SINGLE, dtype=torch.float64)) == "doubling: float64 on a CPU"
    assert explain(SINGLE) == "compiled: float32 is not served by the doubling code"
