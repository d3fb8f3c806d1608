"""Step-by-step logits with memories equal those of the whole sequence at once, and generation follows them."""

from typing import Any

import pytest
import torch

from reformer_dist.generation.decoding import Decoder
from reformer_dist.generation.sampling import draw, generate, stream
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
    ],
    ids=str,
)
def test_steps_equal_the_whole(changes: dict[str, Any], prompt: int) -> None:
    model, tokens = make_model(**changes), draw_tokens(101)
    decoder = Decoder(model)
    parts = [decoder.read(tokens[:, :prompt])]
    parts += [decoder.read(tokens[:, i : i + 1]) for i in range(prompt, 101)]
    torch.testing.assert_close(torch.cat(parts, dim=1), model(tokens), rtol=0, atol=1e-10)


def test_a_second_stretch_equals_the_whole() -> None:
    model, tokens = make_model(), draw_tokens(60)
    decoder = Decoder(model)
    parts = [decoder.read(tokens[:, :20]), decoder.read(tokens[:, 20:59]), decoder.read(tokens[:, 59:])]
    torch.testing.assert_close(torch.cat(parts, dim=1), model(tokens), rtol=0, atol=1e-10)


@pytest.mark.parametrize("changes", [{"causal": False}, {"lsh_mode": "chunked"}, {"lsh_mode": "paper"}], ids=str)
def test_what_looks_ahead_cannot_be_decoded(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"model\.\w+ = .* works"):
        Decoder(make_model(**changes))


def test_weights_trained_in_chunks_decode_under_window_mode() -> None:
    model = make_model(lsh_mode="chunked").with_settings(lsh_mode="window", num_hashes=5)
    assert not model.config.is_rotary, "it has learned without"
    assert not model.config.lsh_brings_next
    assert Decoder(model).read(draw_tokens(9)).shape == (3, 9, 17)


def test_greedy_generation_takes_the_likeliest_token_each_time() -> None:
    model, prompt = make_model(), draw_tokens(5, batch=2)
    text = generate(model, prompt, 20, temperature=0)
    assert torch.equal(text[:, :5], prompt)
    assert torch.equal(model(text[:, :-1])[:, 4:].argmax(-1), text[:, 5:])


def test_the_same_seed_gives_the_same_text() -> None:
    model, prompt = make_model(), draw_tokens(5, batch=1)[0]
    first = generate(model, prompt, 40, seed=1)
    assert first.shape == (45,)
    assert torch.equal(first, generate(model, prompt, 40, seed=1))
    assert not torch.equal(first, generate(model, prompt, 40, seed=2))


def test_top_k_and_top_p_keep_the_likeliest_tokens() -> None:
    logits = torch.log(torch.tensor([[0.4, 0.1, 0.3, 0.2]])).expand(4000, -1)
    generator = torch.Generator().manual_seed(0)
    share = torch.bincount(draw(logits, 1.0, 2, 1.0, generator), minlength=4) / 4000
    torch.testing.assert_close(share, torch.tensor([4 / 7, 0, 3 / 7, 0]), rtol=0, atol=0.03)
    share = torch.bincount(draw(logits, 1.0, None, 0.75, generator), minlength=4) / 4000
    torch.testing.assert_close(share, torch.tensor([4 / 9, 0, 3 / 9, 2 / 9]), rtol=0, atol=0.03)


def test_the_longest_text_fits_and_no_longer() -> None:
    model, prompt = make_model(max_length=16), draw_tokens(6, batch=1)
    assert generate(model, prompt, 11).shape == (1, 17)
    with pytest.raises(ValueError, match="num_tokens = 11 works"):
        generate(model, prompt, 12)


def test_tokens_that_the_tokenizer_lacks_are_never_drawn() -> None:
    model = make_model()
    tokens = generate(model, torch.tensor([[3]]), 40, num_symbols=5, seed=1)
    assert tokens[0, 1:].max() < 5
    assert generate(model, torch.tensor([[3]]), 40, seed=1)[0, 1:].max() >= 5


def test_a_prompt_that_is_too_long_is_told_before_anything_is_drawn() -> None:
    model = make_model()
    longest = model.config.max_length
    with pytest.raises(ValueError, match=rf"a prompt of {longest + 1} tokens needs more than .* a shorter one works"):
        stream(model, torch.zeros(1, longest + 1, dtype=torch.int64), 1)
    with pytest.raises(ValueError, match=r"num_tokens = 3 works"):
        stream(model, torch.zeros(1, longest - 2, dtype=torch.int64), 10)
