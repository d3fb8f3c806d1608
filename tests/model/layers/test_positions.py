"""Position embeddings against the references, at any length up to the largest one, in training too."""

from typing import Any

import pytest
import torch

from reformer_dist.model.layers.positions import AxialPositions, LearnedPositions
from tests.model.models import draw_tokens, make_model
from tests.model.references import reference_axial_positions

GRIDS = [((128,), (12,)), ((8, 16), (5, 7)), ((5, 26), (1, 11)), ((2, 8, 8), (3, 4, 5)), ((2, 4, 4, 4), (1, 2, 3, 6))]
"""(axial_shape, axial_dims) of width 12 that cover 128 positions, one with two to spare."""


@pytest.mark.parametrize(("shape", "dims"), GRIDS)
def test_axial_positions_equal_the_reference(shape: tuple[int, ...], dims: tuple[int, ...]) -> None:
    """In any order, some of them several times; on outputs and on the gradient of every table."""
    positions = AxialPositions(tuple(zip(shape, dims, strict=True))).double()
    generator = torch.Generator().manual_seed(0)
    tables = [torch.randn(size, dtype=torch.float64, generator=generator) for size in zip(shape, dims, strict=True)]
    positions.load_state_dict({f"axis_{axis}": table for axis, table in enumerate(tables)})
    places_BT = torch.randint(128, (2, 77), generator=generator)
    tables = [table.requires_grad_() for table in tables]
    found, expected = positions(places_BT), reference_axial_positions(tables, shape, dims, places_BT)
    assert torch.equal(found, expected)
    weights = torch.randn(found.shape, dtype=torch.float64, generator=generator)
    found.mul(weights).sum().backward()
    expected.mul(weights).sum().backward()
    for parameter, table in zip(positions.parameters(), tables, strict=True):
        torch.testing.assert_close(parameter.grad, table.grad, rtol=0, atol=1e-12)


def test_no_two_places_of_a_grid_are_the_same() -> None:
    positions = AxialPositions(((2, 3), (8, 4), (8, 5)))
    for parameter in positions.parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(parameter.shape[1]))
    vectors = positions(torch.arange(128)[None])[0]
    assert len(vectors.unique(dim=0)) == 128


def test_learned_positions_are_rows_of_one_table() -> None:
    positions = LearnedPositions(9, 4)
    torch.nn.init.normal_(positions.weight)
    places = torch.tensor([[8, 0, 3, 3]])
    assert torch.equal(positions(places), positions.weight[places])


@pytest.mark.parametrize(
    "settings",
    [{"positions": "learned"}, *({"axial_shape": shape, "axial_dims": dims} for shape, dims in GRIDS[1:])],
)
@pytest.mark.parametrize("length", [1, 37, 127, 128])
def test_a_model_trains_at_any_length(length: int, settings: dict[str, Any]) -> None:
    """The old implementations ask for exactly the axial shape; places beyond the sequence get no gradient here."""
    model = make_model(embed_dim=12, **settings)
    tokens = draw_tokens(length)
    loss_sum, num_tokens = model.loss(tokens, tokens)
    loss_sum.backward()
    assert num_tokens == 3 * length
    places = torch.arange(length)[None]
    used = model.positions(places).detach()
    with torch.no_grad():
        for parameter in model.positions.parameters():
            parameter.add_(1e3 * (parameter.grad == 0))  # whatever is not used may be anything
    assert torch.equal(model.positions(places), used)
    torch.testing.assert_close(model.loss(tokens, tokens)[0], loss_sum, rtol=1e-12, atol=0)


@pytest.mark.parametrize("positions", ["axial", "learned"])
def test_a_sequence_that_is_too_long_is_refused(positions: str) -> None:
    with pytest.raises(ValueError, match="128"):
        make_model(positions=positions)(draw_tokens(129))
