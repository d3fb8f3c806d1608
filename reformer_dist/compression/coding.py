"""Range coding (Martin 1979) of bytes by a causal model's probabilities; the only file that imports constriction.

In: stretches of bytes, several at a time. Out: coded stretches, and the same back.

Coder and decoder ask the model token by token, so both compute the same sums in the same order, whatever the batch and the
number of threads (see `Decoder`). Between processors of different kinds that is not promised: cosines and roots may
differ in their last bit. So what the model says of a few tokens goes along as a *probe*, and is compared before decoding.

Legend: B stretches, V vocabulary.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import constriction
import numpy as np
import torch
from numpy.typing import NDArray

from reformer_dist.generation.decoding import Decoder
from reformer_dist.model.reformer import ReformerLM

PROBE_TOKENS = 64
BEGINNING = 256
"""Bytes at a stretch's start that are told worse than later ones, since little is before them."""
Progress = Callable[[int], None]
"""Is told how many bytes more are done."""
_FAMILY = constriction.stream.model.Categorical(perfect=False)


@dataclass(frozen=True)
class Coded:
    """A stretch's code."""

    stream: bytes
    bits: float
    """What the model says: the sum of -log2 of its probabilities."""
    beginning_bits: float
    """Of these, the first BEGINNING bytes'."""


class Predictor:
    """What a model says of the next byte of several stretches."""

    def __init__(self, model: ReformerLM, boundary: int, num_rows: int) -> None:
        """Begin; the model has read what marks a document's start."""
        self._decoder = Decoder(model)
        self._decoder.begin(num_rows)
        self._tokens_B = torch.full((num_rows,), boundary)

    def next(self) -> NDArray[np.float32]:
        """Probabilities [B, V] of the next byte."""
        return self._decoder.probabilities(self._decoder.next(self._tokens_B)).float().numpy()

    def read(self, bytes_B: Sequence[int]) -> None:
        """Take in what the next byte was."""
        self._tokens_B = torch.tensor(bytes_B)


def encode(model: ReformerLM, boundary: int, stretches: Sequence[bytes], progress: Progress) -> list[Coded]:
    """Code stretches beside each other."""
    predictor, longest = Predictor(model, boundary, len(stretches)), max(map(len, stretches))
    coders = [constriction.stream.queue.RangeEncoder() for _ in stretches]
    bits, beginnings = [0.0] * len(stretches), [0.0] * len(stretches)
    for place in range(longest):
        probabilities_BV = predictor.next()
        current = [stretch[place] if place < len(stretch) else boundary for stretch in stretches]
        for row, (stretch, coder) in enumerate(zip(stretches, coders, strict=True)):
            if place < len(stretch):
                coder.encode(np.array(current[row : row + 1], np.int32), _FAMILY, probabilities_BV[row : row + 1])
                bits[row] -= float(np.log2(max(probabilities_BV[row, current[row]], np.finfo(np.float32).tiny)))
                if place < BEGINNING:
                    beginnings[row] = bits[row]
        predictor.read(current)
        progress(sum(place < len(stretch) for stretch in stretches))
    streams = [coder.get_compressed().astype("<u4").tobytes() for coder in coders]
    return [Coded(*each) for each in zip(streams, bits, beginnings, strict=True)]


def decode(
    model: ReformerLM, boundary: int, streams: Sequence[bytes], lengths: Sequence[int], progress: Progress
) -> list[bytes]:
    """The stretches back, of these lengths."""
    predictor = Predictor(model, boundary, len(streams))
    coders = [
        constriction.stream.queue.RangeDecoder(np.frombuffer(stream, "<u4").astype(np.uint32)) for stream in streams
    ]
    stretches = [bytearray() for _ in streams]
    for place in range(max(lengths)):
        probabilities_BV = predictor.next()
        current = [boundary] * len(streams)
        for row, coder in enumerate(coders):
            if place < lengths[row]:
                current[row] = int(coder.decode(_FAMILY, probabilities_BV[row : row + 1])[0])
                stretches[row].append(current[row])
        predictor.read(current)
        progress(sum(place < length for length in lengths))
    return [bytes(stretch) for stretch in stretches]


def probe(model: ReformerLM, boundary: int) -> str:
    """Digest of the model's probabilities along a few fixed tokens, to the last bit."""
    predictor, digest = Predictor(model, boundary, 1), hashlib.sha256()
    for place in range(min(PROBE_TOKENS, model.config.max_length)):
        digest.update(predictor.next().tobytes())
        predictor.read([place // 8 * 37 % 256])  # each eight times, so that attention finds something
    return digest.hexdigest()
