"""The order of the samples depends on the corpus, the seed and the place in training, and on nothing else."""

import numpy as np

from reformer_dist.data.order import sample_ids

HASH = "00f1e2d3c4b5a69788796a5b4c3d2e1f"


def stream(
    num_steps: int, batch_size: int, seed: int = 0, corpus_hash: str = HASH, num_sequences: int = 10
) -> list[int]:
    steps = [sample_ids(corpus_hash, seed, num_sequences, batch_size, step) for step in range(num_steps)]
    return np.concatenate(steps).tolist()


def test_each_epoch_holds_every_sequence_once_in_another_order() -> None:
    samples = stream(10, 4)
    epochs = [samples[i : i + 10] for i in range(0, 40, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_the_batch_size_cuts_the_same_stream_into_other_steps() -> None:
    assert stream(20, 3) == stream(12, 5) == stream(2, 30)


def test_seed_and_corpus_choose_the_order() -> None:
    orders = [stream(1, 10), stream(1, 10, seed=1), stream(1, 10, corpus_hash="1" * 32)]
    assert len({tuple(order) for order in orders}) == 3


def test_the_order_is_the_documented_one() -> None:
    # A resumed run relies on it: if a release of numpy changes this, the order needs a definition of our own.
    assert stream(2, 10) == [9, 0, 3, 1, 7, 2, 4, 8, 5, 6, 4, 6, 9, 5, 7, 8, 0, 2, 3, 1]
