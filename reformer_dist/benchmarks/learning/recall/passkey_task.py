"""A passkey in a haystack: sequences of noise that hold a few symbols behind a marker, which are asked for at the very end.

In: a length, a depth and a generator. Out: "noise ... MARKER k1 k2 k3 k4 noise ... MARKER k1 k2 k3", in which the model must
say k1 at the second marker, and each next symbol at the one before it; the passkey is found if all four are right.

After Mohtashami and Jaggi 2023 (arXiv 2305.16300), with random noise instead of a repeated sentence, for models that learned
no language.

Legend: B sequences, T tokens, Q scored positions, one for each symbol of the passkey.
"""

import torch
from torch import Tensor

from reformer_dist.benchmarks.learning.recall.mqar_task import Examples

MARKER = 0
"""Stands before the passkey, and at the end; nowhere else."""
SYMBOLS = 64
"""Tokens 1 ... 64 may be in a passkey, each once, and nowhere else."""
NOISE = 63
"""The tokens after them fill the rest."""
VOCABULARY = 1 + SYMBOLS + NOISE
"""Different tokens."""
NUM_SYMBOLS = 4
"""Symbols of a passkey, and scored positions Q."""
SHORTEST = 3 * NUM_SYMBOLS
"""Tokens that a sequence must have."""


def passkeys(number: int, length: int, generator: torch.Generator, depth: float | None = None) -> Examples:
    """Draw sequences.

    Args:
        number: of sequences.
        length: tokens T of a sequence.
        generator: of all draws; the same gives the same sequences.
        depth: where the passkey lies, from 0 (at the start) to 1 (right before the question); drawn evenly if None.

    Raises:
        ValueError: a length without room for passkey and question, or a depth out of range.

    """
    if length < SHORTEST:
        raise ValueError(f"length = {length} must be at least {SHORTEST}, for passkey and question; {SHORTEST} works")
    if depth is not None and not 0 <= depth <= 1:
        raise ValueError(f"depth = {depth} must be from 0 to 1; 0.5 works")
    last = last_place(length)
    tokens_BT = torch.randint(1 + SYMBOLS, VOCABULARY, (number, length), generator=generator)
    answers_BQ = 1 + torch.rand(number, SYMBOLS, generator=generator).topk(NUM_SYMBOLS).indices
    drawn_B1 = torch.randint(last + 1, (number, 1), generator=generator)
    places_B1 = drawn_B1 if depth is None else torch.full_like(drawn_B1, round(depth * last))
    inside_Q = torch.arange(NUM_SYMBOLS)
    tokens_BT.scatter_(1, places_B1, MARKER)
    tokens_BT.scatter_(1, places_B1 + 1 + inside_Q, answers_BQ)
    tokens_BT[:, -NUM_SYMBOLS] = MARKER
    tokens_BT[:, length - NUM_SYMBOLS + 1 :] = answers_BQ[:, :-1]
    return Examples(tokens_BT, (length - NUM_SYMBOLS + inside_Q).expand(number, -1), answers_BQ)


def last_place(length: int) -> int:
    """The last position that a passkey's marker can have."""
    return length - 2 * NUM_SYMBOLS - 1


def found(logits_BQV: Tensor, answers_BQ: Tensor) -> Tensor:
    """Whether each sequence's passkey is found, all of its symbols being the likeliest; [B] bool."""
    return (logits_BQV.argmax(-1) == answers_BQ).all(1)
