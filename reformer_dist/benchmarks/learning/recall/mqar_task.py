"""Multi-query associative recall (MQAR) as Arora et al. 2023 (arXiv 2312.04927) draw it, and the sizes it is run at.

In: a length, a number of pairs and a generator. Out: sequences "key value key value ... filler", in whose second part each
key comes once more; there the model must say the key's value. Nothing else is scored.

The sequences follow the protocol of their figure 2: keys are tokens of the lower half of the vocabulary, values of the upper
half, each at most once in a sequence; filler is token 0; the gap between the pairs and a query follows a power law.

Legend: B sequences, T tokens, Q queries (one for each pair).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

VOCABULARY = 8192
"""Tokens: 0 is filler, then keys up to the half, then values."""
POWER = 0.01
"""The exponent a of the gaps: that of gap g (in pairs of tokens, from 1) is drawn with weight g^(a - 1)."""
SETTINGS = ((64, 4), (128, 8), (256, 16), (512, 64))
"""(length, pairs) of the table."""


@dataclass(frozen=True)
class Examples:
    """Sequences and what is asked of them."""

    tokens_BT: Tensor
    """Int64."""
    queries_BQ: Tensor
    """Positions at which the model is scored, int64: where a key comes a second time, in the order of the pairs."""
    answers_BQ: Tensor
    """The value that belongs to each, int64."""


def mqar_examples(
    number: int, length: int, pairs: int, generator: torch.Generator, vocabulary: int = VOCABULARY
) -> Examples:
    """Draw sequences.

    Args:
        number: of sequences.
        length: tokens T of a sequence, even.
        pairs: keys with a value in a sequence, and so queries Q.
        generator: of all draws; the same gives the same sequences.
        vocabulary: number of different tokens.

    Raises:
        ValueError: a length that is odd or too short for pairs and queries, or a vocabulary with too few keys.

    """
    if length % 2 or length < 4 * pairs:
        raise ValueError(f"length = {length} must be even and at least 4 x pairs = {4 * pairs}; {4 * pairs} works")
    if vocabulary < 2 * pairs + 2:
        raise ValueError(f"vocabulary = {vocabulary} has fewer than {pairs} keys; {2 * pairs + 2} works")
    first_value, query_part = vocabulary // 2, 2 * pairs
    keys_BQ = _different(number, pairs, 1, first_value, generator)
    values_BQ = _different(number, pairs, first_value, vocabulary, generator)
    weights = gap_weights(length, pairs).expand(number, -1)
    queries_BQ = query_part + 2 * torch.multinomial(weights, pairs, generator=generator)
    tokens_BT = torch.zeros(number, length, dtype=torch.int64)
    tokens_BT[:, :query_part:2], tokens_BT[:, 1:query_part:2] = keys_BQ, values_BQ
    return Examples(tokens_BT.scatter_(1, queries_BQ, keys_BQ), queries_BQ, values_BQ)


def gap_weights(length: int, pairs: int) -> Tensor:
    """Weights of a query's places, float64: every second position after the pairs, and the nearest are the likeliest."""
    return torch.arange(1, (length - 2 * pairs) // 2 + 1, dtype=torch.float64) ** (POWER - 1)


def _different(number: int, count: int, low: int, high: int, generator: torch.Generator) -> Tensor:
    """Rows of `count` different numbers of low ... high - 1, every choice as likely, [number, count]."""
    return low + torch.rand(number, high - low, generator=generator).topk(count).indices
