"""The compiled operators serve bfloat16: what they compute in float32 of the same numbers, rounded once."""

import pytest
import torch
from torch import Tensor

from reformer_dist import ModelConfig, ReformerLM
from reformer_dist.model.attention.lsh.attention import lsh_attention
from reformer_dist.model.attention.lsh.hashing import draw_rotations
from reformer_dist.model.backends.backend import Work
from reformer_dist.model.backends.choice import choose
from reformer_dist.model.backends.description import AttentionDropout
from reformer_dist.model.backends.native.backend import Native
from reformer_dist.model.backends.native.widened import Widened
from reformer_dist.model.backends.packing import pack, unpack
from reformer_dist.model.backends.rules import window_rule
from tests.model.backends.rows import make_rows

ROUNDING = 2**-8


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Numbers that bfloat16 has."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def assert_rounded(narrow: Tensor, wide: Tensor) -> None:
    assert narrow.dtype == torch.bfloat16
    torch.testing.assert_close(narrow.float(), wide, rtol=ROUNDING, atol=ROUNDING * float(wide.abs().max()) * 1e-2)


@pytest.mark.parametrize("dropout", [None, AttentionDropout(0.2, 3)], ids=str)
def test_attention_and_gradients_are_those_of_float32_rounded(dropout: AttentionDropout | None) -> None:
    """Buckets too: hashed are the rounded numbers, in either case."""
    rotations, found = draw_rotations(1, 8, 3, (8,)), []
    for narrow in (True, False):
        qk, v = (drawn(2, 50, 3, 8, seed=seed).to(torch.bfloat16 if narrow else torch.float32) for seed in (1, 2))
        out = lsh_attention(qk.requires_grad_(), v.requires_grad_(), rotations, window=6, dropout=dropout)
        out.backward(drawn(*out.shape, seed=3).to(out.dtype))
        assert qk.grad is not None
        assert v.grad is not None
        found.append((out.detach(), qk.grad, v.grad))
    for narrow, wide in zip(*found, strict=True):
        assert_rounded(narrow, wide)


def test_rows_of_other_workers_are_those_of_float32_rounded() -> None:
    rows = make_rows(window_rule(12, True, 1000, with_self=False), None, 37, torch.Generator().manual_seed(1))
    vectors, grad = drawn(len(rows.segments_M), 10), drawn(len(rows.segments_M), 5, seed=1)
    results = unpack(Widened().attend_rows(vectors, rows), 5)
    expected = unpack(Native().attend_rows(vectors.float(), rows), 5)
    assert_rounded(results[0], expected[0])
    assert torch.equal(results[1], expected[1]), "statistics travel as they are"
    statistics = torch.randn(len(vectors), 2, generator=torch.Generator().manual_seed(2))
    statistics[rows.own, 1] = expected[1][:, 0].where(expected[1][:, 0] > -torch.inf, torch.inf)
    gradients = Widened().attend_rows_backward(vectors, pack(grad, statistics), rows)
    assert_rounded(gradients, Native().attend_rows_backward(vectors.float(), pack(grad.float(), statistics), rows))


@pytest.mark.parametrize("keep", ["nothing", "products"])
def test_a_model_under_autocast_has_float32s_loss_and_gradients_but_for_rounding(keep: str) -> None:
    """By the compiled operators in either case."""
    assert isinstance(choose(Work(torch.device("cpu"), torch.bfloat16, 8)), Widened)
    config = ModelConfig(
        embed_dim=32,
        num_heads=4,
        feed_forward_dim=64,
        layers=("local", "lsh"),
        max_length=64,
        lsh_window=8,
        keep=(keep,),
    )
    model, tokens, found = ReformerLM(config).train(), torch.arange(64)[None] * 37 % 256, []
    for enabled in (True, False):
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            loss, count = model.loss(tokens, tokens)
        (loss / count).backward()
        gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        found.append((float(loss.detach() / count), torch.cat(gradients)))
    (loss, gradient), (expected_loss, expected) = found
    assert loss == pytest.approx(expected_loss, rel=5e-3)
    assert (gradient - expected).norm() < 0.05 * expected.norm()
