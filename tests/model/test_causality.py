"""What a causal model says before position t does not depend on what comes at t and after."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.model.models import VOCABULARY, draw_tokens, make_model


def _largest_change(model: Any, length: int, start: int, seed: int) -> float:
    """Largest change of a logit before `start` when all tokens from there on change."""
    tokens = draw_tokens(length, seed=seed)
    changed = tokens.clone()
    changed[:, start:] = (changed[:, start:] + 1 + draw_tokens(length - start, seed=seed + 1) % 5) % VOCABULARY
    with torch.no_grad():
        difference = model(tokens)[:, :start] - model(changed)[:, :start]
    return float(difference.abs().max()) if start else 0.0


@pytest.mark.parametrize("layers", [("lsh",), ("local",), ("full",), ("local", "lsh") * 2, ("lsh",) * 8])
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_window_mode_is_causal_at_any_depth(layers: tuple[str, ...], data: st.DataObject) -> None:
    length = data.draw(st.integers(2, 60))
    start = data.draw(st.integers(1, length - 1))
    model = make_model(
        layers=layers,
        num_hashes=data.draw(st.integers(1, 4)),
        num_buckets=data.draw(st.sampled_from([1, 2, 8, (2, 4)])),
        lsh_window=data.draw(st.integers(1, 20)),
        seed=data.draw(st.integers(0, 9)),
    )
    # Only the order of sums may move, with a key's place in its block.
    assert _largest_change(model, length, start, seed=length) < 1e-10


@pytest.mark.parametrize("local_mode", ["window", "chunked"])
def test_local_attention_is_causal(local_mode: str) -> None:
    model = make_model(layers=("local", "local"), local_mode=local_mode)
    assert all(_largest_change(model, 40, start, seed=start) < 1e-10 for start in range(1, 40))


def test_chunked_mode_is_not_causal() -> None:
    """The chunks that trax, Hugging Face and lucidrains cut depend on the hashes of later tokens."""
    model = make_model(layers=("lsh",) * 3, lsh_mode="chunked")
    assert max(_largest_change(model, 40, start, seed=start) for start in range(10, 40)) > 1e-3


def test_packed_documents_do_not_see_each_other() -> None:
    model = make_model()
    first, second = draw_tokens(23), draw_tokens(18, seed=5)
    documents = torch.cat([torch.zeros(23), torch.ones(18)]).long().expand(3, -1)
    positions = torch.cat([torch.arange(23), torch.arange(18)]).expand(3, -1)
    packed = model(torch.cat([first, second], dim=1), positions, documents)
    torch.testing.assert_close(packed[:, :23], model(first), rtol=0, atol=1e-10)
    torch.testing.assert_close(packed[:, 23:], model(second), rtol=0, atol=1e-10)


@pytest.mark.parametrize("causal", [True, False])
def test_padding_changes_nothing(causal: bool) -> None:
    model = make_model(causal=causal)
    tokens = draw_tokens(30)
    padded = torch.cat([tokens, draw_tokens(11, seed=3)], dim=1)
    documents = torch.cat([torch.zeros(30), -torch.ones(11)]).long().expand(3, -1)
    torch.testing.assert_close(model(padded, documents=documents)[:, :30], model(tokens), rtol=0, atol=1e-10)
