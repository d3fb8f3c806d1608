"""The Triton kernels equal the plain references, on outputs and on all gradients; without a GPU in Triton's interpreter."""

import os
import subprocess
import sys
from typing import Literal, cast

import pytest
import torch
from torch import Tensor

from reformer_dist.model.attention.local import local_attention
from reformer_dist.model.attention.lsh.attention import lsh_attention
from reformer_dist.model.attention.lsh.hashing import hash_buckets
from reformer_dist.model.backends.choice import BACKENDS
from reformer_dist.model.backends.description import AttentionDropout
from reformer_dist.model.backends.native.backend import Native
from reformer_dist.model.backends.rules import window_rule
from reformer_dist.model.backends.triton import launch
from reformer_dist.model.backends.triton.backend import Triton
from reformer_dist.model.context import Context
from tests.model.attention.test_attention import check_local, check_lsh
from tests.model.backends.rows import check_rows, make_rows
from tests.model.cases import Case, outputs_and_gradients

pytestmark = pytest.mark.skipif(not launch.is_available(), reason="needs Triton: pip install triton")
interpreted = pytest.mark.skipif(torch.cuda.is_available(), reason="float64 is for the interpreter, which needs no GPU")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
HALF = torch.bfloat16 if torch.cuda.is_available() else torch.float16  # the interpreter multiplies no bfloat16
KEY = 1234567

# Dropout and head widths whose scales are exact in float32, in which the interpreter keeps numbers.
_CASES = [
    Case(1, head_dim=4, batch=1),
    Case(40, window=20, documents="packed", dropout=0.5, head_dim=4, batch=1),
    Case(21, window=5, documents="padded", causal=False, head_dim=4, num_heads=1),
    Case(
        34, window=33, num_rounds=1, alike=True, documents="scattered", dropout=0.5, causal=False, head_dim=4, batch=1
    ),
    Case(35, window=24, num_rounds=3, num_buckets=(2, 4), head_dim=16, batch=1, num_heads=1),
]
"""Windows shorter and longer than a panel of 16, chunks that are no whole panels, several sequences or heads."""


def _send_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the kernels take everything, on any device."""
    monkeypatch.setattr(Native, "missing", lambda self: "left out by this test")
    monkeypatch.setattr(Triton, "refusal", lambda self, work: None)


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send all that "auto" stands for to the kernels, with the shortest panels, so that short sequences have several."""
    _send_all(monkeypatch)
    monkeypatch.setattr(launch, "longest_block", lambda head_dim, dtype: launch.MIN_BLOCK)


@interpreted
@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(
    ("mode", "case"), [("window", 0), ("window", 1), ("window", 3), ("chunked", 1), ("chunked", 2), ("chunked", 4)]
)
def test_lsh_attention(mode: Literal["window", "chunked"], case: int) -> None:
    check_lsh(_CASES[case], mode, "auto")


@interpreted
@pytest.mark.usefixtures("kernels")
def test_a_token_that_sees_nothing_gets_nothing_if_asked() -> None:
    check_lsh(_CASES[1], "window", "auto", own_value=False)


@interpreted
@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(("mode", "case"), [("window", 1), ("window", 2), ("chunked", 1)])
def test_local_attention(mode: Literal["window", "chunked"], case: int) -> None:
    check_local(_CASES[case], mode, "auto")


def _errors(kernel_dtype: torch.dtype, causal: bool, head_dim: int, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The largest differences of output and gradients from the plain form in float64, by the largest entry of each."""
    case = Case(90, window=50, num_rounds=2, documents="packed", causal=causal, head_dim=head_dim, batch=1)
    inputs = case.inputs()
    buckets = hash_buckets(inputs.qk, inputs.rotations, case.num_buckets)
    assert inputs.documents is not None

    def attention(qk: Tensor, v: Tensor, kernel: Literal["auto", "plain"], dtype: torch.dtype) -> Tensor:
        return lsh_attention(
            qk.to(DEVICE, dtype),
            v.to(DEVICE, dtype),
            inputs.rotations,
            num_buckets=case.num_buckets,
            window=case.window,
            causal=causal,
            buckets_BHRT=buckets.to(DEVICE),
            documents_BT=cast(Tensor, inputs.documents).to(DEVICE),
            dropout=AttentionDropout(0.1, KEY),
            kernel=kernel,
        ).to("cpu", torch.float64)

    tensors = [x.to(kernel_dtype).double() for x in (inputs.qk, inputs.v)]
    expected = outputs_and_gradients(lambda qk, v: attention(qk, v, "plain", torch.float64), tensors)
    _send_all(monkeypatch)
    found = outputs_and_gradients(lambda qk, v: attention(qk, v, "auto", kernel_dtype), tensors)
    return [float((x - y).abs().max() / y.abs().max()) for x, y in zip(found, expected, strict=True)]


@pytest.mark.parametrize(("head_dim", "causal"), [(48, True), (80, False)])
def test_single_precision(monkeypatch: pytest.MonkeyPatch, head_dim: int, causal: bool) -> None:
    assert max(_errors(torch.float32, causal, head_dim, monkeypatch)) < 2e-6


def test_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    # The inputs are exact; weights and their gradients are rounded to 11 bits (8 for bfloat16) before they are multiplied.
    assert max(_errors(HALF, True, 64, monkeypatch)) < 4 * torch.finfo(HALF).eps


@pytest.mark.usefixtures("kernels")
def test_dropout_decides_as_elsewhere() -> None:
    T = 32
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, T, 2, T, generator=generator).to(DEVICE) for _ in range(2))
    v = torch.eye(T, device=DEVICE)[None, :, None].expand(2, T, 2, T)
    context, dropout = Context(first_row=3, first_position=100, first_head=1), AttentionDropout(0.3, KEY)
    kernels: list[Literal["auto", "plain"]] = ["auto", "plain"]
    ours, plain = (
        local_attention(q, k, v, window=T, causal=False, context=context, dropout=dropout, kernel=kernel) == 0
        for kernel in kernels
    )
    assert torch.equal(ours, plain)
    assert 0.2 < ours.double().mean() < 0.4


@interpreted
@pytest.mark.usefixtures("kernels")
def test_rows_of_other_workers() -> None:
    rule, dropout = window_rule(12, False, 1000, with_self=False), AttentionDropout(0.5, KEY)
    rows = make_rows(rule, dropout, 21, torch.Generator().manual_seed(1))
    check_rows(BACKENDS["triton"], rows, head_dim=5)


def test_compiled_without_a_gpu() -> None:
    """For an H100, in bfloat16, with dropout; in a process of its own, where nothing is interpreted."""
    code = (
        "import torch; from reformer_dist.benchmarks.speed.kernels import KERNELS, Variant, compile_ahead\n"
        "for kernel, mode in zip(KERNELS, ('chunked', 'local', 'window')):\n"
        "    print(compile_ahead(Variant(kernel, 90, torch.bfloat16, 64, True, mode)).spilled)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["0", "0", "0"]
