"""RACE attention, a peer of the benchmarks: that it is the paper's, causal, and the same by pieces."""

import copy
import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from reformer_dist.benchmarks import race
from reformer_dist.benchmarks.race import RaceAttention


def make_layer(seed: int = 0) -> RaceAttention:
    layer = RaceAttention(12, 3, num_tables=2, num_planes=3, seed=seed).double()
    with torch.no_grad():
        layer.log_beta.fill_(0.7)
        layer.norm.weight.uniform_(0.5, 1.5)
        layer.norm.bias.uniform_(-0.5, 0.5)
    return layer


def plain(layer: RaceAttention, x_BTE: Tensor) -> Tensor:
    """The paper's algorithms 1 and 2 token by token: queries, keys, corners one by one, and two sums that go along."""
    x_BTE = layer_norm(x_BTE, (12,), layer.norm.weight, layer.norm.bias)
    q, k, v = ((x_BTE @ w.T).unflatten(-1, (3, 4)) for w in (layer.query_weight, layer.key_weight, layer.value_weight))
    beta, tables = layer.log_beta.exp(), layer.hyperplanes.unflatten(0, (2, 3))
    corners = torch.tensor([[a, b, c] for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)], dtype=torch.float64)

    def phi(x_BHD: Tensor) -> Tensor:  # [B, H, L, R]
        return torch.stack(
            [(beta * (x_BHD @ plane.T).tanh() @ corners.T).exp() for plane in tables], dim=2
        ) / torch.stack([(beta * (x_BHD @ plane.T).tanh() @ corners.T).exp().sum(-1, True) for plane in tables], dim=2)

    num_BHLRD, den_BHLR = torch.zeros(len(x_BTE), 3, 2, 8, 4, dtype=torch.float64), torch.zeros(len(x_BTE), 3, 2, 8)
    rows = []
    for t in range(x_BTE.shape[1]):
        num_BHLRD = num_BHLRD + phi(k[:, t])[..., None] * v[:, t, :, None, None]
        den_BHLR = den_BHLR + phi(k[:, t])
        query = phi(q[:, t])
        top, bottom = (query[..., None] * num_BHLRD).sum((2, 3)), (query * den_BHLR).sum((2, 3))
        rows.append((top / (bottom[..., None] + race.SMALLEST)).flatten(1) @ layer.output_weight.T)
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize("length", [1, 5, 23])
@pytest.mark.parametrize("keeps", [True, False])
def test_chunks_and_pieces_are_the_papers_sums(length: int, keeps: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs and all gradients, with several pieces, several chunks in a piece, and a rest that fills neither."""
    monkeypatch.setattr(race, "CHUNK", 4)
    monkeypatch.setattr(race, "PIECE", 8)
    layer = make_layer()
    layer.keeps = keeps
    reference = copy.deepcopy(layer)
    generator = torch.Generator().manual_seed(1)
    x_BTE, grad_BTE = torch.randn(2, 2, length, 12, dtype=torch.float64, generator=generator)
    found, expected = x_BTE.clone().requires_grad_(), x_BTE.clone().requires_grad_()
    out_BTE, expected_BTE = layer(found), plain(reference, expected)
    torch.testing.assert_close(out_BTE, expected_BTE)
    out_BTE.backward(grad_BTE)
    expected_BTE.backward(grad_BTE)
    torch.testing.assert_close(found.grad, expected.grad)
    for (name, ours), theirs in zip(layer.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=lambda text, name=name: f"{name}: {text}")


def test_no_token_sees_a_later_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(race, "CHUNK", 4)
    monkeypatch.setattr(race, "PIECE", 8)
    layer, place = make_layer(), 9
    x_BTE = torch.randn(1, 21, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    other_BTE = x_BTE.clone()
    other_BTE[:, place:] += 1.0
    same = (layer(x_BTE) == layer(other_BTE)).all(-1)[0]
    changed = torch.arange(21) >= place
    torch.testing.assert_close(layer(x_BTE)[:, :place], layer(other_BTE)[:, :place], rtol=0, atol=1e-14)
    assert not (same & changed).any()


def test_soft_hashes_meet_as_hard_ones_do_when_they_are_sharp() -> None:
    """Then two vectors share a corner with probability (1 - angle / pi)^P, the kernel that the paper sharpens."""
    num_tables, num_planes, angle = 40_000, 2, math.pi / 3
    planes_ND = torch.randn(num_tables * num_planes, 2, generator=torch.Generator().manual_seed(3))
    vectors_D = torch.tensor([[1.0, 0.0], [math.cos(angle), math.sin(angle)]])
    hashes = race.soft_hashes(1e3 * vectors_D @ planes_ND.T, race.corners(num_planes), torch.tensor(1e3))
    assert hashes.shape == (2, num_tables * 2**num_planes)
    met = float(hashes[0] @ hashes[1]) / num_tables
    assert met == pytest.approx((1 - angle / math.pi) ** num_planes, abs=0.01)
