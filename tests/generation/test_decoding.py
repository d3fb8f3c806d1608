"""Step-by-step logits with memories equal those of the whole sequence at once, and generation follows them."""

from typing import Any

import pytest
import torch
from torch import Tensor

from reformer_dist.generation.decoding import Decoder
from reformer_dist.model.reformer import ReformerLM
from tests.model.models import OPTIONS, draw_tokens, make_model


@pytest.mark.parametrize("prompt", [1, 2, 37, 100])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"local_mode": "chunked", "local_neighbours": (2, 0)},
        {"num_buckets": 1, "lsh_window": 128},
        {"num_buckets": (4, 2), "num_hashes": 1},
        {"lsh_window": 1, "local_window": 1},
        {"hash_seed": 3, "positions": "learned", "tie_embeddings": True, "rotary": False},
        OPTIONS,
        {**OPTIONS, "attention_kernel": "plain"},
        {"attention_kernel": "plain", "local_mode": "chunked", "hash_seed": 3},
    ],
    ids=str,
)
def test_steps_equal_the_whole(changes: dict[str, Any], prompt: int) -> None:
    model, tokens = make_model(**changes), draw_tokens(101)
    decoder = Decoder(model)
    parts = [decoder.read(tokens[:, :prompt])]
    parts += [decoder.read(tokens[:, i : i + 1]) for i in range(prompt, 101)]
    torch.testing.assert_close(torch.cat(parts, dim=1), model(tokens), rtol=0, atol=1e-10)


@pytest.mark.parametrize("changes", [{}, {"attention_kernel": "plain"}, OPTIONS], ids=str)
def test_steps_from_nothing_equal_the_whole(changes: dict[str, Any]) -> None:
    model, tokens = make_model(**changes), draw_tokens(40)
    decoder = Decoder(model)
    decoder.begin(3)
    logits = torch.stack([decoder.next(tokens_B) for tokens_B in tokens.unbind(1)], dim=1)
    torch.testing.assert_close(logits, model(tokens), rtol=0, atol=1e-10)


def test_a_second_stretch_equals_the_whole() -> None:
    model, tokens = make_model(), draw_tokens(60)
    decoder = Decoder(model)
    parts = [decoder.read(tokens[:, :20]), decoder.read(tokens[:, 20:59]), decoder.read(tokens[:, 59:])]
    torch.testing.assert_close(torch.cat(parts, dim=1), model(tokens), rtol=0, atol=1e-10)


@pytest.mark.parametrize("changes", [{}, {"attention_kernel": "plain"}, OPTIONS], ids=str)
def test_rows_of_different_lengths_are_each_as_if_alone(changes: dict[str, Any]) -> None:
    """Longer than windows and buckets, and one row so short that nothing is remembered yet."""
    model, tokens = make_model(**changes), draw_tokens(100)
    prompts = [1, 70, 31]
    decoders = [Decoder(model) for _ in prompts]
    for decoder, row, prompt in zip(decoders, tokens, prompts, strict=True):
        decoder.read(row[None, :prompt])
    together = decoders[0]
    together.extend(decoders[1:])
    assert together.lengths == prompts
    next_B = [torch.stack([row[prompt + i] for row, prompt in zip(tokens, prompts, strict=True)]) for i in range(29)]
    logits_BTV = torch.stack([together.next(tokens_B) for tokens_B in next_B], dim=1)
    expected_BTV = model(tokens)
    for row, prompt in enumerate(prompts):
        expected = expected_BTV[row, prompt : prompt + 29]
        torch.testing.assert_close(logits_BTV[row], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "changes", [{}, {"layers": ("full", "local", "lsh")}, {"activation": "gelu"}, OPTIONS], ids=str
)
def test_other_rows_and_other_threads_change_no_bit(changes: dict[str, Any]) -> None:
    """In float32, by the compiled operators; of a width that lanes do not divide, and one that they do."""
    for width in (12, 64):
        model = make_model(embed_dim=width, feed_forward_dim=5 * width, **changes).float()
        tokens = draw_tokens(60, batch=7)
        found = [_next_logits(model, tokens[:rows], threads) for rows, threads in ((1, 1), (5, 2), (7, 1))]
        for logits in found[1:]:
            assert torch.equal(logits[:1], found[0])
        assert torch.equal(found[1], found[2][:5])


def _next_logits(model: ReformerLM, tokens: Tensor, threads: int) -> Tensor:
    """Read token by token from the first."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    decoder = Decoder(model)
    decoder.begin(len(tokens))
    logits = [decoder.next(tokens_B) for tokens_B in tokens.unbind(1)]
    torch.set_num_threads(before)
    return torch.stack(logits, dim=1)


@pytest.mark.parametrize("changes", [{"causal": False}, {"lsh_mode": "chunked"}, {"lsh_mode": "paper"}], ids=str)
def test_what_looks_ahead_cannot_be_decoded(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"model\.\w+ = .* works"):
        Decoder(make_model(**changes))


def test_weights_trained_in_chunks_decode_under_window_mode() -> None:
    model = make_model(lsh_mode="chunked").with_settings(lsh_mode="window", num_hashes=5)
    assert not model.config.is_rotary, "it has learned without"
    assert not model.config.lsh_brings_next
    assert Decoder(model).read(draw_tokens(9)).shape == (3, 9, 17)
