"""Draws in numpy are those of model/randomness.py in torch, and evenly spread."""

import numpy as np
import torch

from reformer_dist.model import randomness
from reformer_dist.objectives import draws

COUNTERS = [(0,), (1, 2, 3), (-1, 5, 0, 7), (2**63, 2**64 - 1, 12), (7, -1, 4_000_000, 65_535, 3)]


def test_bits_are_the_keys_of_the_model() -> None:
    for counters in COUNTERS:
        assert int(draws.bits(*counters)[0]) == randomness.make_key(*counters) % 2**64


def test_an_array_of_counters_gives_what_each_gives() -> None:
    found = draws.bits(3, -1, np.arange(1000), 9)
    assert found.tolist() == [randomness.make_key(3, -1, i, 9) % 2**64 for i in range(1000)]


def test_the_finaliser_is_the_one_on_tensors() -> None:
    values = np.random.default_rng(0).integers(0, 2**64, 10_000, np.uint64)
    expected = randomness.scramble(torch.from_numpy(values.view(np.int64))).numpy().view(np.uint64)
    assert np.array_equal(draws.scramble(values), expected)


def test_fractions_and_integers_are_spread_evenly() -> None:
    places = np.arange(100_000)
    fractions = draws.fractions(1, 2, places, draws.Use.IS_SCORED)
    assert 0 <= fractions.min() < 1e-4
    assert 1 - 1e-4 < fractions.max() < 1
    assert abs(np.histogram(fractions, 10, (0, 1))[0] - 10_000).max() < 500  # five deviations
    counts = np.bincount(draws.integers(7, 1, 2, places, draws.Use.RANDOM_TOKEN), minlength=7)
    assert len(counts) == 7
    assert abs(counts - 100_000 / 7).max() < 5 * (100_000 / 7) ** 0.5
    other = draws.fractions(1, 2, places, draws.Use.HIDDEN_AS)
    assert abs(np.corrcoef(fractions, other)[0, 1]) < 0.02, "uses are independent"
