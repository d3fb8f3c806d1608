"""Held-out bits a byte, all together and by position in the sequence.

In: a model and a corpus. Out: bits for each position, and their means over buckets of positions.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from reformer_dist.benchmarks.learning.quality.corpora import Corpus
from reformer_dist.benchmarks.learning.quality.recipes import LanguageModel
from reformer_dist.scoring.tally import bucket_ends

TOKENS_AT_A_TIME = 16_384


class PositionBits(NamedTuple):
    """Mean held-out bits a byte of the tokens at positions from `start` to before `end`."""

    start: int
    end: int
    bits: float


@torch.no_grad()
def held_out_bits(model: LanguageModel, corpus: Corpus, length: int) -> Tensor:
    """Bits of each held-out byte, float64 [sequences, length]; the model is in training mode afterwards."""
    model.eval()
    tokens, labels = corpus.held_out_sequences(length)
    rows = max(1, TOKENS_AT_A_TIME // length)
    nats = [
        cross_entropy(model(some).transpose(1, 2), expected, reduction="none").double()
        for some, expected in zip(tokens.split(rows), labels.split(rows), strict=True)
    ]
    model.train()
    return torch.cat(nats) / math.log(2)


def by_position(bits: Tensor) -> list[PositionBits]:
    """Means of bits [sequences, length] over positions 0 to 15, 16 to 31, 32 to 63 and so on."""
    ends = bucket_ends(bits.shape[1])
    return [
        PositionBits(start, end, float(bits[:, start:end].mean()))
        for start, end in zip([0, *ends[:-1]], ends, strict=True)
    ]
