"""Processes that read prompts together: what they remember is what one does, and what they cannot share is a line."""

import pytest
import torch
import torch.distributed as dist

from reformer_dist.config import ModelConfig
from reformer_dist.errors import ConfigError
from reformer_dist.generation.decoding import read_alone
from reformer_dist.generation.prompt_workers import LEAST_TOKENS, check_workers, readers
from tests.model.models import draw_tokens, make_model


def test_long_and_short_prompts_are_read_as_by_one_process() -> None:
    model = make_model(max_length=2048).eval()
    alone = read_alone(model)
    with readers(model, 2) as read:
        for length in (2 * LEAST_TOKENS + 1, 9):
            prompt_T, next_B = draw_tokens(length)[0], torch.tensor([3])
            (decoder, logits_BV), (expected, expected_BV) = read(prompt_T), alone(prompt_T)
            torch.testing.assert_close(logits_BV, expected_BV, rtol=0, atol=1e-10)
            torch.testing.assert_close(decoder.next(next_B), expected.next(next_B), rtol=0, atol=1e-10)
        assert dist.is_initialized()
    assert not dist.is_initialized()
    with (
        pytest.raises(ConfigError, match=r"generation\.workers = 512: there are \d+ CPUs"),
        readers(make_model(layers=("local", "lsh")), 512),
    ):
        pass


def test_full_layers_need_workers_that_divide_the_heads() -> None:
    whole = ModelConfig(layers=("full", "lsh"), num_heads=4)
    check_workers(whole, 2)
    with pytest.raises(ConfigError, match=r"generation\.workers = 6 does not divide model\.num_heads = 4.*; 4 works"):
        check_workers(whole, 6)
    check_workers(ModelConfig(layers=("local", "lsh"), num_heads=4), 6)
