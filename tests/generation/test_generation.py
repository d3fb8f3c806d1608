"""Generation follows the model's logits, each prompt as if it were alone, and the options keep what they say."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from reformer_dist.data.tokenizers.single_bytes import BytesTokenizer
from reformer_dist.generation import Sampling, generate, stream
from reformer_dist.generation.sampling import Numbers
from tests.model.models import OPTIONS, draw_tokens, make_model


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


@pytest.mark.parametrize("changes", [{}, OPTIONS], ids=str)
def test_prompts_of_different_lengths_are_each_continued_as_if_alone(changes: dict[str, Any]) -> None:
    model, tokens = make_model(**changes).float(), draw_tokens(60)
    prompts = [tokens[0, :50], tokens[1, :1], tokens[2, :17]]
    together = generate(model, prompts, 30, 0.9, 10, 0.95, seed=3, repetition_penalty=1.3)
    for prompt, text in zip(prompts, together, strict=True):
        assert torch.equal(text, generate(model, prompt, 30, 0.9, 10, 0.95, seed=3, repetition_penalty=1.3))


def test_equal_prompts_are_continued_differently() -> None:
    first, second = generate(make_model(), [torch.tensor([3])] * 2, 40)
    assert not torch.equal(first, second)


def test_no_prompt_at_all_is_told() -> None:
    with pytest.raises(ValueError, match="an empty list; one prompt works"):
        generate(make_model(), list[torch.Tensor](), 4)


def test_text_is_continued_as_its_tokens_are() -> None:
    model = make_model(vocab_size=256)
    model.tokenizer = BytesTokenizer()
    prompts = ["a", "größer"]
    rows = [torch.tensor([model.tokenizer.boundary, *text.encode()]) for text in prompts]
    expected = [model.tokenizer.decode(row[1:].tolist()) for row in generate(model, rows, 9, seed=5)]
    assert generate(model, prompts, 9, seed=5) == expected
    assert generate(model, "a", 9, seed=5) == expected[0]


def shares(logits: Sequence[float], number: int = 4000, **options: Any) -> torch.Tensor:
    """How often each token is drawn, by numbers that lie evenly between 0 and 1."""
    rows = torch.log(torch.tensor([logits])).expand(number, -1)
    numbers = [i / number for i in range(number)]
    return torch.bincount(Sampling(**options).draw(rows, [[]] * number, numbers), minlength=len(logits)) / number


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.4, 0.1, 0.3, 0.2]),
        ({"top_k": 2}, [4 / 7, 0, 3 / 7, 0]),
        ({"top_p": 0.75}, [4 / 9, 0, 3 / 9, 2 / 9]),
        ({"min_p": 0.49}, [4 / 9, 0, 3 / 9, 2 / 9]),
        ({"min_p": 0.51}, [4 / 7, 0, 3 / 7, 0]),
        ({"temperature": 0.5}, [16 / 30, 1 / 30, 9 / 30, 4 / 30]),
        ({"num_symbols": 2}, [0.8, 0.2, 0, 0]),
        ({"temperature": 0.0}, [1.0, 0, 0, 0]),
    ],
    ids=str,
)
def test_tokens_are_drawn_as_often_as_they_are_likely(options: dict[str, Any], expected: list[float]) -> None:
    found = shares([0.4, 0.1, 0.3, 0.2], **options)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=2e-3)


def test_what_was_read_lately_is_less_likely() -> None:
    """Both sides of zero: 2 / 2 and -1 x 2; the token before the window stays as it is."""
    sampling = Sampling(temperature=0, repetition_penalty=2.0, repetition_window=2)
    logits = torch.tensor([[2.0, 1.5, -1.0, 1.9]])
    for read, likeliest in (([], 0), ([0, 2], 3), ([0, 2, 3], 0), ([0, 3], 1)):
        assert sampling.draw(logits, [read], [0.0]).item() == likeliest
    less = torch.tensor([[-2.0, -1.5]])
    assert sampling.draw(less, [[1]], [0.0]).item() == 0
    assert torch.equal(logits, torch.tensor([[2.0, 1.5, -1.0, 1.9]])), "the model's logits are left alone"


def test_numbers_are_spread_evenly() -> None:
    numbers = Numbers(seed=1, prompt=[5, 6], copy=0)
    drawn = torch.tensor([numbers.next() for _ in range(4000)], dtype=torch.float64)
    assert 0 <= drawn.min() < drawn.max() < 1
    shares = torch.histc(drawn, 8, 0, 1) / 4000
    torch.testing.assert_close(shares, torch.full((8,), 1 / 8, dtype=torch.float64), rtol=0, atol=0.025)
    assert Numbers(1, [5, 6], 0).next() == drawn[0] != Numbers(1, [5, 7], 0).next() != Numbers(1, [5, 6], 1).next()


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -1.0},
        {"top_k": 0},
        {"top_p": 0.0},
        {"min_p": 1.0},
        {"repetition_penalty": 0.0},
        {"repetition_window": 0},
        {"num_symbols": 0},
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(ValueError, match=rf"^{name} = .* must"):
        Sampling(**options)


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
        stream(model, [torch.zeros(longest + 1, dtype=torch.int64)], 1, Sampling())
    with pytest.raises(ValueError, match=r"num_tokens = 3 works"):
        stream(model, [torch.zeros(longest - 2, dtype=torch.int64)], 10, Sampling())
