"""An LSH key brings the value of the token after it: what the layer computes, and where there is no such token."""

from typing import Any

import pytest
import torch
from torch import Tensor

from reformer_dist.model.context import Context
from tests.model import references
from tests.model.models import make_model

LENGTH = 40
DOCUMENTS = torch.tensor([[0] * 13 + [1] * 20 + [-1] * 7, [0, 1] * 18 + [0] * 4])
"""One document behind the other and then padding; and tokens of two documents by turns."""


@pytest.mark.parametrize("documents", [None, DOCUMENTS], ids=["one", "several"])
def test_a_layer_attends_to_the_values_of_next_tokens(documents: Tensor | None) -> None:
    """With weights of one, and without what else is in a layer, it is the reference of the shifted stream."""
    model = make_model(layers=("lsh",), num_heads=1, convolution=0, rotary=False, num_buckets=2, lsh_window=3)
    layer, x = model.stack.blocks[0].attention, torch.randn(2, LENGTH, 12, dtype=torch.float64)
    with torch.no_grad():
        for weight in (layer.query_key_weight, layer.value_weight, layer.output_weight):
            weight.copy_(torch.eye(12))
    stream = torch.nn.functional.layer_norm(x, (12,))
    following = torch.zeros_like(stream)
    following[:, :-1] = stream[:, 1:]
    if documents is not None:
        following[:, :-1][documents[:, 1:] != documents[:, :-1]] = 0
    kind = layer.head_groups[0].kind
    layer.eval()
    rotations = kind.rotations(0, torch.float64).double()  # type: ignore[attr-defined]
    buckets = references.hash_buckets(stream[:, :, None], rotations, 2)
    expected = references.lsh_window(
        stream[:, :, None], following[:, :, None], buckets, 3, documents_BT=documents, own_value=False
    )
    found, _ = layer.contribute(x, Context(documents_BT=documents))
    torch.testing.assert_close(found, expected[:, :, 0], rtol=0, atol=1e-10)
    assert (found[:, 0] == 0).all(), "the first token has nothing to look back to"


def test_one_layer_finds_what_followed() -> None:
    """What exact attention needs two layers for: A B ... A -> B, from a token of the same kind in the same bucket."""
    model = make_model(layers=("lsh",), num_heads=1, convolution=0, rotary=False, num_hashes=1, lsh_window=64)
    layer = model.stack.blocks[0].attention
    with torch.no_grad():
        for weight in (layer.query_key_weight, layer.value_weight, layer.output_weight):
            weight.copy_(torch.eye(12))
        layer.query_key_weight.mul_(50)
    letters = torch.randn(30, 12, dtype=torch.float64)
    x = torch.cat([letters, letters[4:5]])[None]
    found, _ = layer.contribute(x, Context())
    torch.testing.assert_close(found[0, -1], torch.nn.functional.layer_norm(x, (12,))[0, 5], rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "is_next"),
    [({}, True), ({"lsh_values": "own"}, False), ({"causal": False}, False), ({"lsh_mode": "chunked"}, False)],
    ids=str,
)
def test_they_are_the_default_where_they_can_be(changes: dict[str, Any], is_next: bool) -> None:
    assert make_model(**changes).config.lsh_brings_next == is_next


@pytest.mark.parametrize("changes", [{"causal": False}, {"lsh_mode": "paper"}], ids=str)
def test_a_look_ahead_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"model\.lsh_values = 'next' .*; 'own' works"):
        make_model(lsh_values="next", **changes)
