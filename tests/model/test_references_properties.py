"""What must hold for the references whatever the input: finite differences, and properties on random cases."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import pad

from tests.model import references
from tests.model.cases import CASES, Case, random_cases
from tests.model.references import ATOL, lsh_chunked, lsh_paper, lsh_window


@pytest.mark.parametrize("attention", [lsh_window, lsh_chunked, lsh_paper])
@pytest.mark.parametrize("causal", [True, False])
def test_gradients_are_those_of_the_output(attention: Callable[..., Tensor], causal: bool) -> None:
    """Finite differences, with lonely rows, padding, packing and dropout."""
    case = Case(7, window=2, documents="scattered", dropout=0.3, causal=causal, batch=1, seed=1)
    x = case.inputs()
    buckets = references.hash_buckets(x.qk, x.rotations, case.num_buckets)

    def function(qk: Tensor, v: Tensor) -> Tensor:
        return attention(qk, v, buckets, case.window, documents_BT=x.documents, causal=causal, keep_BHTT=x.keep)

    torch.autograd.gradcheck(function, (x.qk.requires_grad_(), x.v.requires_grad_()))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_window_of_everything_is_exact_attention(case: Case) -> None:
    """One bucket and a window of at least T: all three modes are softmax over every other token of the document."""
    x = case.inputs()
    buckets = torch.zeros(case.batch, case.num_heads, case.num_rounds, case.num_tokens, dtype=torch.int64)
    others = ~torch.eye(case.num_tokens, dtype=torch.bool)
    if x.documents is not None:
        others = others & references.same_document(x.documents)[:, None]
    if case.causal:
        others = others & torch.ones_like(others).tril()
    expected = references.attend(references.shared_scores(x.qk), others.expand(case.batch, 1, -1, -1), x.v, x.keep)
    for attention in (lsh_window, lsh_chunked, lsh_paper):
        out = attention(
            x.qk, x.v, buckets, case.num_tokens, documents_BT=x.documents, causal=case.causal, keep_BHTT=x.keep
        )
        torch.testing.assert_close(out, expected, rtol=0, atol=ATOL)


@given(random_cases())
@settings(max_examples=40, deadline=None)
def test_outputs_are_means_of_what_is_seen_and_padding_keeps_its_value(case: Case) -> None:
    x = case.inputs()
    buckets = references.hash_buckets(x.qk, x.rotations, case.num_buckets)
    assert buckets.min() >= 0
    assert buckets.max() < math.prod(case.num_buckets)
    for attention in references.LSH_MODES.values():
        options: dict[str, Any] = {"documents_BT": x.documents, "causal": case.causal}
        mean = attention(x.qk, torch.ones_like(x.v), buckets, case.window, **options)
        torch.testing.assert_close(mean, torch.ones_like(x.v), rtol=0, atol=ATOL)
        if x.documents is not None and x.keep is not None:
            out = attention(x.qk, x.v, buckets, case.window, keep_BHTT=x.keep, **options)
            own = x.keep.diagonal(dim1=2, dim2=3).transpose(1, 2)[..., None] * x.v
            padding_BT = x.documents < 0
            torch.testing.assert_close(out[padding_BT], own[padding_BT], rtol=0, atol=ATOL)


@given(random_cases(), st.integers(1, 23))
@settings(max_examples=40, deadline=None)
def test_causal_window_does_not_depend_on_what_comes_after(case: Case, start: int) -> None:
    x, other = case.inputs(), dataclasses.replace(case, seed=case.seed + 1).inputs()
    outputs = []
    for suffix in (x, other):
        qk, v = (torch.cat([a[:, :start], b[:, start:]], dim=1) for a, b in ((x.qk, suffix.qk), (x.v, suffix.v)))
        buckets = references.hash_buckets(qk, x.rotations, case.num_buckets)
        outputs.append(lsh_window(qk, v, buckets, case.window, documents_BT=x.documents, causal=True))
    torch.testing.assert_close(outputs[0][:, :start], outputs[1][:, :start], rtol=0, atol=1e-12)


@pytest.mark.parametrize("causal", [True, False])
def test_a_packed_document_is_as_if_alone_in_window(causal: bool) -> None:
    case = Case(20, window=3, num_rounds=3, documents="packed", causal=causal, batch=1, seed=2)
    x = case.inputs()
    assert x.documents is not None
    assert x.documents.max() > 0
    buckets = references.hash_buckets(x.qk, x.rotations, case.num_buckets)
    packed = lsh_window(x.qk, x.v, buckets, case.window, documents_BT=x.documents, causal=causal)
    for document in range(int(x.documents.max()) + 1):
        rows = x.documents[0] == document
        alone = lsh_window(x.qk[:, rows], x.v[:, rows], buckets[..., rows], case.window, causal=causal)
        torch.testing.assert_close(packed[:, rows], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("attention", [lsh_window, lsh_chunked, lsh_paper])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_padding_to_a_multiple_of_the_window_changes_nothing(case: Case, attention: Callable[..., Tensor]) -> None:
    """What `chunked` adds inside is what a caller may add outside; the other modes do not notice it at all."""
    x, extra = case.inputs(), -case.num_tokens % case.window
    documents = torch.zeros(case.batch, case.num_tokens, dtype=torch.int64) if x.documents is None else x.documents
    buckets = references.hash_buckets(x.qk, x.rotations, case.num_buckets)
    out = attention(x.qk, x.v, buckets, case.window, documents_BT=documents, causal=case.causal)
    qk, v = (pad(tensor, (0, 0, 0, 0, 0, extra), value=3.0) for tensor in (x.qk, x.v))
    options: dict[str, Any] = {"documents_BT": pad(documents, (0, extra), value=-1), "causal": case.causal}
    padded = attention(qk, v, pad(buckets, (0, extra)), case.window, **options)
    torch.testing.assert_close(padded[:, : case.num_tokens], out, rtol=0, atol=ATOL)
