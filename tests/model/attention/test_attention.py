"""The fast attention paths equal the plain references, on outputs and on all gradients, in float64."""

from collections.abc import Callable
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from reformer_dist.model.attention.full import full_attention
from reformer_dist.model.attention.local import local_attention
from reformer_dist.model.attention.lsh.attention import lsh_attention
from reformer_dist.model.attention.lsh.hashing import hash_buckets
from reformer_dist.model.backends.description import AttentionDropout
from reformer_dist.model.backends.native.backend import Native
from reformer_dist.model.context import Context
from reformer_dist.model.randomness import pair_keep, scramble, token_hash
from tests.model import references
from tests.model.cases import CASES, Case, Inputs, outputs_and_gradients, random_cases

MODES: list[Literal["window", "chunked", "paper"]] = ["window", "chunked", "paper"]
KERNELS: list[Literal["auto", "plain"]] = ["auto", "plain"]
DROPOUT_KEY = 1234567


def _compare(fast: Callable[..., Tensor], plain: Callable[..., Tensor], tensors: list[Tensor]) -> None:
    # The -1e5 of `chunked` costs 1e-11 in float64; elsewhere 1e-12 would do.
    for ours, theirs in zip(outputs_and_gradients(fast, tensors), outputs_and_gradients(plain, tensors), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=references.ATOL)


def _dropout(case: Case, inputs: Inputs) -> tuple[AttentionDropout | None, Tensor | None]:
    """The dropout of a case, and the multipliers [B, H, T, T] that it must amount to."""
    if not case.dropout:
        return None, None
    B, T, H, _ = inputs.qk.shape
    hashes_BT = token_hash(DROPOUT_KEY, 0, 0, (B, T), inputs.qk.device)
    hashes_BHT = scramble(hashes_BT[:, None] + torch.arange(H)[:, None])
    keep = pair_keep(hashes_BHT[..., None], hashes_BHT[:, :, None, :], case.dropout, torch.float64)
    return AttentionDropout(case.dropout, DROPOUT_KEY), keep


def check_lsh(
    case: Case,
    mode: Literal["window", "chunked", "paper"],
    kernel: Literal["auto", "plain"],
    *,
    own_value: bool = True,
) -> None:
    inputs = case.inputs()
    dropout, keep = _dropout(case, inputs)
    lonely = {} if own_value else {"own_value": False}

    def fast(qk: Tensor, v: Tensor) -> Tensor:
        return lsh_attention(
            qk,
            v,
            inputs.rotations,
            num_buckets=case.num_buckets,
            mode=mode,
            window=case.window,
            causal=case.causal,
            documents_BT=inputs.documents,
            dropout=dropout,
            kernel=kernel,
            own_value=own_value,
        )

    def plain(qk: Tensor, v: Tensor) -> Tensor:
        buckets = references.hash_buckets(qk, inputs.rotations, case.num_buckets)
        return references.LSH_MODES[mode](
            qk, v, buckets, case.window, documents_BT=inputs.documents, causal=case.causal, keep_BHTT=keep, **lonely
        )

    _compare(fast, plain, [inputs.qk, inputs.v])


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_lsh_attention(
    case: Case, mode: Literal["window", "chunked", "paper"], kernel: Literal["auto", "plain"]
) -> None:
    check_lsh(case, mode, kernel)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("case", CASES[::3], ids=str)
def test_a_token_that_sees_nothing_gets_nothing_if_asked(case: Case, kernel: Literal["auto", "plain"]) -> None:
    check_lsh(case, "window", kernel, own_value=False)


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=60, deadline=None)
@given(case=random_cases())
def test_lsh_attention_anywhere(mode: Literal["window", "chunked", "paper"], case: Case) -> None:
    check_lsh(case, mode, "auto")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_lsh_attention_where_nothing_is_compiled(
    monkeypatch: pytest.MonkeyPatch, case: Case, mode: Literal["window", "chunked", "paper"]
) -> None:
    """What `auto` takes without the compiled operators: torch's fused attention."""
    monkeypatch.setattr(Native, "missing", lambda self: "left out by this test")
    check_lsh(case, mode, "auto")


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_buckets(case: Case, kernel: Literal["auto", "plain"]) -> None:
    inputs = case.inputs()
    ours = hash_buckets(inputs.qk, inputs.rotations, case.num_buckets, kernel)
    assert torch.equal(ours.long(), references.hash_buckets(inputs.qk, inputs.rotations, case.num_buckets))


def check_local(case: Case, mode: Literal["window", "chunked"], kernel: Literal["auto", "plain"]) -> None:
    inputs = case.inputs()
    dropout, keep = _dropout(case, inputs)
    options = {"circular": True, "chunks_after": 0} if mode == "chunked" else {}

    def fast(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return local_attention(
            q,
            k,
            v,
            mode=mode,
            window=case.window,
            causal=case.causal,
            context=Context(inputs.documents),
            dropout=dropout,
            kernel=kernel,
        )

    def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return references.LOCAL_MODES[mode](
            q, k, v, case.window, documents_BT=inputs.documents, causal=case.causal, keep_BHTT=keep, **options
        )

    _compare(fast, plain, [inputs.q, inputs.k, inputs.v])


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("mode", ["window", "chunked"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_local_attention(case: Case, mode: Literal["window", "chunked"], kernel: Literal["auto", "plain"]) -> None:
    check_local(case, mode, kernel)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_full_attention(case: Case) -> None:
    inputs = case.inputs()
    dropout, keep = _dropout(case, inputs)

    def fast(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return full_attention(q, k, v, causal=case.causal, context=Context(inputs.documents), dropout=dropout)

    def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return references.full_attention(q, k, v, documents_BT=inputs.documents, causal=case.causal, keep_BHTT=keep)

    _compare(fast, plain, [inputs.q, inputs.k, inputs.v])


def test_dropout_drops_the_stated_share() -> None:
    hashes = scramble(torch.arange(400))
    keep = pair_keep(hashes[:, None], hashes[None, :], 0.25, torch.float64)
    assert (keep == 0).double().mean() == pytest.approx(0.25, abs=0.005)
    assert keep.max() == pytest.approx(4 / 3)
    rows, columns = (keep == 0).double().mean(1), (keep == 0).double().mean(0)
    assert rows.std() == pytest.approx((0.25 * 0.75 / 400) ** 0.5, rel=0.15)
    assert columns.std() == pytest.approx((0.25 * 0.75 / 400) ** 0.5, rel=0.15)


def test_single_precision_stays_near_double() -> None:
    case = Case(num_tokens=301, window=16, num_buckets=(8,), num_rounds=4, head_dim=16, documents="packed")
    inputs = case.inputs()
    single, double = (
        lsh_attention(
            inputs.qk.to(dtype), inputs.v.to(dtype), inputs.rotations, window=16, num_buckets=8,
            documents_BT=inputs.documents, buckets_BHRT=hash_buckets(inputs.qk, inputs.rotations, (8,)),
        ).double()
        for dtype in (torch.float32, torch.float64)
    )  # fmt: skip
    torch.testing.assert_close(single, double, rtol=1e-5, atol=1e-5)
