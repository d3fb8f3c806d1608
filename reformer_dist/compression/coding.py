"""Range coding (Martin 1979) of bytes by a causal model's probabilities; the only file that imports constriction.

In: stretches of bytes, some in a group. Out: the code of each group, and the same back.

Coder and decoder ask the model token by token, so both compute the same sums in the same order, whatever the batch and the
number of threads (see `Decoder`). Between processors of different kinds that is not promised: cosines and roots may
differ in their last bit. So what the model says of a few tokens goes along as a *probe*, and is compared before decoding.

Legend: B stretches, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import constriction
import numpy as np
import torch
from numpy.typing import NDArray

from reformer_dist.compression.container import digest_of
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
    """The code of a group of stretches, and what the model says of each."""

    stream: bytes
    bits: Sequence[float]
    """Of each stretch: the sum of -log2 of the model's probabilities."""
    beginning_bits: Sequence[float]
    """Of these, the first BEGINNING bytes'."""


class Predictor:
    """What a model says of the next byte of several stretches, which are asked for `batch` at a time."""

    def __init__(self, model: ReformerLM, boundary: int, num_rows: int, batch: int) -> None:
        """Begin; the model has read what marks a document's start."""
        self._decoders = []
        for first in range(0, num_rows, batch):
            self._decoders.append(Decoder(model))
            self._decoders[-1].begin(min(batch, num_rows - first))
        self._batch, self._tokens_B = batch, torch.full((num_rows,), boundary)

    def next(self) -> NDArray[np.float32]:
        """Probabilities [B, V] of the next byte."""
        parts = zip(self._decoders, self._tokens_B.split(self._batch), strict=True)
        found = [decoder.probabilities(decoder.next(tokens_B)) for decoder, tokens_B in parts]
        return torch.cat(found).float().numpy()

    def read(self, bytes_B: NDArray[np.int32]) -> None:
        """Take in what the next byte was."""
        self._tokens_B = torch.from_numpy(bytes_B).long()


def encode(model: ReformerLM, boundary: int, stretches: Sequence[bytes], batch: int, progress: Progress) -> Coded:
    """Code a group of stretches, byte after byte of all of them, the longer ones first."""
    assert sorted(map(len, stretches), reverse=True) == [*map(len, stretches)]
    predictor, coder = Predictor(model, boundary, len(stretches), batch), constriction.stream.queue.RangeEncoder()
    bits_B, beginnings_B = np.zeros(len(stretches)), np.zeros(len(stretches))
    for place in range(len(stretches[0])):
        probabilities_BV = predictor.next()
        current_B = np.full(len(stretches), boundary, np.int32)
        known = [stretch[place] for stretch in stretches if place < len(stretch)]
        here = np.arange(len(known))
        current_B[here] = known
        coder.encode(current_B[here], _FAMILY, probabilities_BV[here])
        likely_B = np.maximum(probabilities_BV[here, current_B[here]], np.finfo(np.float32).tiny)
        bits_B[here] -= np.log2(likely_B, dtype=np.float64)
        if place < BEGINNING:
            beginnings_B[here] = bits_B[here]
        predictor.read(current_B)
        progress(len(known))
    return Coded(coder.get_compressed().astype("<u4").tobytes(), bits_B.tolist(), beginnings_B.tolist())


def decode(
    model: ReformerLM, boundary: int, stream: bytes, lengths: Sequence[int], batch: int, progress: Progress
) -> list[bytes]:
    """The stretches back, of these lengths, the longer ones first."""
    predictor = Predictor(model, boundary, len(lengths), batch)
    coder = constriction.stream.queue.RangeDecoder(np.frombuffer(stream, "<u4").astype(np.uint32))
    found_TB = np.full((lengths[0], len(lengths)), boundary, np.int32)
    for place in range(lengths[0]):
        count = sum(place < length for length in lengths)
        found_TB[place, :count] = coder.decode(_FAMILY, predictor.next()[:count])
        predictor.read(found_TB[place])
        progress(count)
    return [found_TB[:length, row].astype(np.uint8).tobytes() for row, length in enumerate(lengths)]


def probe(model: ReformerLM, boundary: int) -> bytes:
    """Digest of the model's probabilities along a few fixed tokens, to the last bit."""
    predictor, found = Predictor(model, boundary, 1, 1), list[bytes]()
    for place in range(min(PROBE_TOKENS, model.config.max_length)):
        found.append(predictor.next().tobytes())
        predictor.read(
            np.array([place // 8 * 37 % 256], np.int32)
        )  # each eight times, so that attention finds something
    return digest_of(*found)
