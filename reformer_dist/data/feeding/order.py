"""The order of the samples: which sequences a step trains on, a pure function of the corpus, the seed and the step."""

import heapq
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

ROUND = 1000
"""Samples of a mixture in which each source has its share exactly: weights are rounded to thousandths."""


def sample_ids(corpus_hash: str, seed: int, num_sequences: int, samples: range) -> NDArray[np.int64]:
    """Sequences of some global samples, int64 [samples], those of a step's batch say.

    Sample g is sample g mod N of epoch g div N, N being num_sequences. Sample i of
    epoch e is entry i of the permutation of N that numpy's PCG64, seeded with (corpus hash, seed, e), draws. Neither
    the number of workers nor the step at which training was resumed comes into it.
    """
    epochs, places = np.divmod(np.asarray(samples), num_sequences)
    orders = {epoch: epoch_order(corpus_hash, seed, epoch, num_sequences) for epoch in np.unique(epochs).tolist()}
    ids = [orders[epoch][place] for epoch, place in zip(epochs.tolist(), places.tolist(), strict=True)]
    return np.array(ids, np.int64)


def rows_of(batch_size: int, data_groups: int, data_group: int) -> range:
    """Rows of a global batch that a data group takes: neighbours, as many as the others take or one more or less."""
    return range(data_group * batch_size // data_groups, (data_group + 1) * batch_size // data_groups)


def mixture_ids(
    corpus_hash: str, seed: int, source_sizes: Sequence[int], weights: Sequence[float], samples: range
) -> NDArray[np.int64]:
    """Sequences of some global samples, int64 [samples], drawn from several sources by weight.

    The global samples g fall into rounds of ROUND. In each, source k has a fixed number of
    them, n_k, the weights' shares of ROUND rounded to whole numbers; which ones is a permutation drawn for the round.
    So sample g is the j-th of its source for a j that follows from g alone, and it is sample j mod N_k of that source's
    epoch j div N_k, N_k being the source's number of sequences. A source's epochs are permuted as a corpus's are.

    Args:
        corpus_hash: hash of the corpus.
        seed: seed of the order.
        source_sizes: sequences of each source; those of source k are numbered after those of the sources before it.
        weights: share of each source, of any sum.
        samples: those of a step, say.
    """
    numbers = round_numbers(tuple(weights))
    firsts = np.cumsum([0, *source_sizes])
    ids = []
    for sample in samples:
        number, place = divmod(sample, ROUND)
        sources, ranks = _round(corpus_hash, seed, number, numbers)
        source = int(sources[place])
        epoch, index = divmod(number * numbers[source] + int(ranks[place]), source_sizes[source])
        ids.append(int(firsts[source] + epoch_order(corpus_hash, seed, epoch, source_sizes[source], source + 1)[index]))
    return np.array(ids, np.int64)


class DocumentOrder:
    """Sequences of a document behind each other in one row of the batch, and so on one data group.

    A run is the sequences of one document that follow each other; a sequence packed from several is a run of one. Epoch e
    takes the runs by the permutation that PCG64, seeded with (corpus hash, seed, e), draws, and deals each to the row
    that has the most of the epoch's places left, the first of several. A run longer than that is cut there, its rest
    dealt as the next run: a document of more sequences than a row holds in an epoch, and some of those dealt last.
    """

    def __init__(self, corpus_hash: str, seed: int, run_lengths: NDArray[np.int64], batch_size: int) -> None:
        self._key = (int(corpus_hash, 16), seed)
        self._lengths, self._firsts = run_lengths, np.cumsum(run_lengths) - run_lengths
        self._num_sequences, self._batch_size = int(run_lengths.sum()), batch_size
        self._epochs: dict[int, NDArray[np.int64]] = {}

    def ids(self, step: int) -> NDArray[np.int64]:
        """Sequences of the global batch of a step, int64 [batch_size]."""
        epochs, samples = np.divmod(step * self._batch_size + np.arange(self._batch_size), self._num_sequences)
        ids = [self._epoch(epoch)[sample] for epoch, sample in zip(epochs.tolist(), samples.tolist(), strict=True)]
        return np.array(ids, np.int64)

    def _epoch(self, epoch: int) -> NDArray[np.int64]:
        if epoch not in self._epochs:
            self._epochs = {kept: order for kept, order in self._epochs.items() if kept == epoch - 1}
            self._epochs[epoch] = self._deal(epoch)
        return self._epochs[epoch]

    def _deal(self, epoch: int) -> NDArray[np.int64]:
        N, B = self._num_sequences, self._batch_size
        rows = [range((row - epoch * N) % B, N, B) for row in range(B)]  # each row's places in the epoch
        heap = [(-len(places), row) for row, places in enumerate(rows) if places]
        heapq.heapify(heap)
        order = np.empty(N, np.int64)
        for run in _permutation((*self._key, epoch), len(self._lengths)).tolist():
            first, length = int(self._firsts[run]), int(self._lengths[run])
            while length:
                room, row = -heap[0][0], heap[0][1]
                taken = min(room, length)
                places = rows[row][len(rows[row]) - room :][:taken]
                order[places.start : places.stop : B] = np.arange(first, first + taken)
                first, length = first + taken, length - taken
                if room > taken:
                    heapq.heapreplace(heap, (taken - room, row))
                else:
                    heapq.heappop(heap)
        return order


@lru_cache(4)
def round_numbers(weights: tuple[float, ...]) -> tuple[int, ...]:
    """Samples that each source has in a round: its share of ROUND, at least one, by the largest remainders."""
    shares = np.array(weights) / sum(weights) * ROUND
    numbers = np.maximum(1, np.floor(shares).astype(np.int64))
    while numbers.sum() != ROUND:
        gap = shares - numbers
        numbers[np.argmax(gap) if numbers.sum() < ROUND else np.argmin(np.where(numbers > 1, gap, np.inf))] += np.sign(
            ROUND - numbers.sum()
        )
    return tuple(numbers.tolist())


@lru_cache(2)
def _round(
    corpus_hash: str, seed: int, number: int, numbers: tuple[int, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Source of each sample of a round, and how many of that source come before it in the round."""
    sources = np.repeat(np.arange(len(numbers)), numbers)[_permutation((int(corpus_hash, 16), seed, number, 0), ROUND)]
    ranks = np.zeros(ROUND, np.int64)
    for source, count in enumerate(numbers):
        ranks[sources == source] = np.arange(count)
    return sources, ranks


@lru_cache(16)
def epoch_order(corpus_hash: str, seed: int, epoch: int, num_sequences: int, stream: int = 0) -> NDArray[np.int64]:
    """The permutation of an epoch, int64 [num_sequences]: each sequence once. Not to be written to.

    Args:
        corpus_hash: hash of the corpus.
        seed: seed of the order.
        epoch: number of the epoch.
        num_sequences: sequences to be permuted.
        stream: 0 for a corpus as a whole, k + 1 for source k of a mixture.
    """
    key = (int(corpus_hash, 16), seed, epoch, stream) if stream else (int(corpus_hash, 16), seed, epoch)
    return _permutation(key, num_sequences)


def _permutation(key: tuple[int, ...], size: int) -> NDArray[np.int64]:
    order = np.random.Generator(np.random.PCG64(key)).permutation(size)
    order.setflags(write=False)
    return order
