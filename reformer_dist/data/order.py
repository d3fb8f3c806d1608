"""The order of the samples: which sequences a step trains on, a pure function of the corpus, the seed and the step."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


def sample_ids(corpus_hash: str, seed: int, num_sequences: int, batch_size: int, step: int) -> NDArray[np.int64]:
    """Sequences of the global batch of a step, int64 [batch_size].

    Row r of step s is sample g mod N of epoch g div N, where g = s * batch_size + r and N = num_sequences. Sample i of
    epoch e is entry i of the permutation of N that numpy's PCG64, seeded with (corpus hash, seed, e), draws. Neither
    the number of workers nor the step at which training was resumed comes into it.
    """
    epochs, samples = np.divmod(step * batch_size + np.arange(batch_size), num_sequences)
    orders = {epoch: epoch_order(corpus_hash, seed, epoch, num_sequences) for epoch in np.unique(epochs).tolist()}
    ids = [orders[epoch][sample] for epoch, sample in zip(epochs.tolist(), samples.tolist(), strict=True)]
    return np.array(ids, np.int64)


@lru_cache(2)
def epoch_order(corpus_hash: str, seed: int, epoch: int, num_sequences: int) -> NDArray[np.int64]:
    """The permutation of an epoch, int64 [num_sequences]: each sequence once. Not to be written to."""
    order = np.random.Generator(np.random.PCG64([int(corpus_hash, 16), seed, epoch])).permutation(num_sequences)
    order.setflags(write=False)
    return order
