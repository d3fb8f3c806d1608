"""Compressors on held-out bytes."""

import numpy as np
import pytest

from reformer_dist.benchmarks.learning import compressors
from reformer_dist.benchmarks.learning.quality.corpora import Corpus


def test_compressors_are_asked_for_what_is_held_out_after_the_rest() -> None:
    draw = np.random.default_rng(0)
    noise = draw.integers(0, 4, 40_000).astype(np.uint8)
    fresh = compressors.bits(Corpus("noise", noise[:30_000], noise[None, 30_000:]))
    again = compressors.bits(Corpus("again", noise[:30_000], noise[None, :10_000]))
    assert fresh["unigram"][0] == pytest.approx(2.0, abs=0.02)
    for name in compressors.COMPRESSORS:
        assert 1.9 < fresh[name][0] < 2.5, "two bits of noise a byte"
    assert again["xz -9e"][0] < 0.05, "all of it was there before"
