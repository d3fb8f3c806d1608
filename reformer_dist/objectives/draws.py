"""Random draws keyed by counters, in numpy: each is a pure function of its key, whatever was drawn before and by whom.

In: counters, such as (seed, step, row, position, use). Out: 64 bits, a number below 1, or one of some tokens. The
function is that of model/randomness.py, which draws dropout on the model's device; this form needs no torch.
"""

import enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Counter = int | NDArray[np.int64]
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MASK_64 = (1 << 64) - 1


class Use(enum.IntEnum):
    """What a draw is for; a part of its key."""

    IS_SCORED = 1
    HIDDEN_AS = 2
    RANDOM_TOKEN = 3
    SPAN_LENGTHS = 4
    SPAN_GAPS = 5


def bits(*counters: Counter) -> NDArray[np.uint64]:
    """Mix counters into 64 bits (splitmix64, Steele et al. 2014); arrays of counters broadcast."""
    state = np.zeros(1, np.uint64)
    for counter in counters:
        state = scramble(state + _unsigned(counter) + _GOLDEN)
    return state


def scramble(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The splitmix64 finaliser; products wrap around."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def fractions(*counters: Counter) -> NDArray[np.float64]:
    """Numbers of [0, 1), each 2^-53 from the next."""
    return (bits(*counters) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def integers(number: int, *counters: Counter) -> NDArray[np.int64]:
    """Integers of [0, number); of 2^64 draws, each has as many as the others, or one more."""
    return (bits(*counters) % np.uint64(number)).astype(np.int64)


def _unsigned(counter: Counter) -> NDArray[np.uint64]:
    """Negative counters as two's complement."""
    values: Any = np.asarray(counter & _MASK_64 if isinstance(counter, int) else counter)
    return np.atleast_1d(values).astype(np.uint64)
