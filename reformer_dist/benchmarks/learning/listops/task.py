"""ListOps: nested lists of digits with an operator each, whose value is one digit (Nangia and Bowman 2018).

In: a generator of random numbers. Out: "[MAX 2 9 [MIN 4 7 ] 0 ] =", at whose last token a model must say 9. Drawn as the
public generator of Long Range Arena draws (Tay et al. 2020, lists nested up to ten deep, of two to ten members, 501 to
1,999 tokens), and with its tokens: round brackets, which its reader leaves out, are not written.

Legend: B sequences, T tokens.
"""

import random
from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

from reformer_dist.model.layers.output import IGNORED

DIGITS = 10
"""Tokens 0 ... 9 are the digits."""
OPERATORS: dict[str, Callable[[Sequence[int]], int]] = {
    "[MIN": min,
    "[MAX": max,
    "[MED": lambda values: int(median(values)),
    "[SM": lambda values: sum(values) % DIGITS,
}
"""What each opens, and what becomes of the list's members; tokens 10 ... 13. A median between two digits is rounded down."""
CLOSED = DIGITS + len(OPERATORS)
"""The token that ends a list."""
ASKED = CLOSED + 1
"""The last token of a sequence, at which its value is asked."""
SHARE_OF_LISTS = 0.25
"""Probability that a member is a list where it may be one."""
MOST_MEMBERS = 10
DEEPEST = 10
SHORTEST, LONGEST = 501, 1999
"""Tokens of an expression."""


class Expression(NamedTuple):
    """Tokens and the digit that they amount to."""

    tokens: list[int]
    value: int


class Examples(NamedTuple):
    """Sequences for a language model: all labels but each sequence's last are left out."""

    tokens_BT: Tensor
    """Expressions and ASKED; after it zeros, which a causal model does not see before it answers."""
    labels_BT: Tensor
    """The value at ASKED, else IGNORED."""
    values_B: Tensor
    """The values alone."""


def expression(draws: random.Random, depth: int = 1) -> Expression:
    """Draw an expression of any length; `depth` is how deep it lies in another."""
    if depth >= DEEPEST or draws.random() > SHARE_OF_LISTS:
        digit = draws.randrange(DIGITS)
        return Expression([digit], digit)
    members = [expression(draws, depth + 1) for _ in range(draws.randint(2, MOST_MEMBERS))]
    operator = draws.randrange(len(OPERATORS))
    tokens = [DIGITS + operator, *(token for member in members for token in member.tokens), CLOSED]
    return Expression(tokens, [*OPERATORS.values()][operator]([member.value for member in members]))


def long_expression(draws: random.Random, shortest: int = SHORTEST, longest: int = LONGEST) -> Expression:
    """Draw until one has `shortest` to `longest` tokens."""
    while True:
        drawn = expression(draws)
        if shortest <= len(drawn.tokens) <= longest:
            return drawn


def examples(expressions: Sequence[Expression]) -> Examples:
    """Expressions side by side, filled up with zeros behind their ends."""
    ends_B = torch.tensor([len(drawn.tokens) for drawn in expressions])
    values_B = torch.tensor([drawn.value for drawn in expressions])
    tokens_BT = torch.zeros(len(expressions), int(ends_B.max()) + 1, dtype=torch.long)
    for row_T, drawn in zip(tokens_BT, expressions, strict=True):
        row_T[: len(drawn.tokens)] = torch.tensor(drawn.tokens)
    tokens_BT.scatter_(1, ends_B[:, None], ASKED)
    labels_BT = torch.full_like(tokens_BT, IGNORED).scatter_(1, ends_B[:, None], values_B[:, None])
    return Examples(tokens_BT, labels_BT, values_B)
