"""Rotary positions turn every pair of features by its own angle, exactly, wherever a sequence is cut."""

import math

import pytest
import torch
from torch import Tensor

from reformer_dist.model.attention.rotary import turn


def draw(num_tokens: int, width: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Vectors [2, T, 3, D]."""
    return torch.randn(2, num_tokens, 3, width, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize("width", [1, 2, 7, 8])
def test_pairs_are_turned_by_their_angles(width: int) -> None:
    x = draw(5, width)
    found = turn(x, 11, 100.0)
    for token, feature in ((token, feature) for token in range(5) for feature in range(0, width - 1, 2)):
        angle = (11 + token) * 100.0 ** (-feature / (width // 2 * 2))
        a, b = x[:, token, :, feature], x[:, token, :, feature + 1]
        torch.testing.assert_close(found[:, token, :, feature], a * math.cos(angle) - b * math.sin(angle))
        torch.testing.assert_close(found[:, token, :, feature + 1], a * math.sin(angle) + b * math.cos(angle))
    if width % 2:
        assert torch.equal(found[..., -1], x[..., -1])


def test_scores_depend_on_the_distance_alone() -> None:
    """At position 2^30 too, in float32: angles of float32 would be noise there."""
    q, k = draw(1, 16, torch.float32), draw(2, 16, torch.float32)[:, 1:]
    scores = [(turn(q, start + 37, 1e4) * turn(k, start, 1e4)).sum(-1) for start in (0, 1 << 20, 1 << 30)]
    assert (scores[0] - (q * k).sum(-1)).abs().max() > 1
    for other in scores[1:]:
        torch.testing.assert_close(other, scores[0], rtol=1e-5, atol=1e-5)


def test_pieces_are_turned_as_the_whole() -> None:
    """Several pieces, and pieces that start anywhere; equal but for the last bits of float64."""
    x = draw(250, 6)
    whole = turn(x, 3, 1e4)
    for start, stop in ((0, 1), (1, 150), (102, 250), (205, 206)):
        found = turn(x[:, start:stop], 3 + start, 1e4, at_a_time=37)
        torch.testing.assert_close(found, whole[:, start:stop], rtol=0, atol=1e-12)


def test_gradients() -> None:
    x = draw(3, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: turn(x.transpose(1, 2).transpose(1, 2), 7, 50.0), [x])


def test_bfloat16_is_turned_in_float32() -> None:
    x = draw(9, 8, torch.bfloat16)
    assert torch.equal(turn(x, 1000, 1e4), turn(x.float(), 1000, 1e4).bfloat16())
