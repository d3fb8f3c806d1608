"""The order of the samples depends on the corpus, the seed and the place in training, and on nothing else."""

import numpy as np

from reformer_dist.data.feeding.order import ROUND, DocumentOrder, mixture_ids, round_numbers, sample_ids

HASH = "00f1e2d3c4b5a69788796a5b4c3d2e1f"
SIZES = (40, 30, 7)


def batch(step: int, size: int) -> range:
    return range(step * size, (step + 1) * size)


def stream(
    num_steps: int, batch_size: int, seed: int = 0, corpus_hash: str = HASH, num_sequences: int = 10
) -> list[int]:
    steps = [sample_ids(corpus_hash, seed, num_sequences, batch(step, batch_size)) for step in range(num_steps)]
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


def mixture(num_steps: int, batch_size: int, weights: tuple[float, ...] = (3, 1, 0.5), seed: int = 0) -> list[int]:
    steps = [mixture_ids(HASH, seed, SIZES, weights, batch(step, batch_size)) for step in range(num_steps)]
    return np.concatenate(steps).tolist()


def test_a_mixture_gives_each_source_its_share_and_all_of_it_in_turn() -> None:
    samples = np.array(mixture(2 * ROUND, 1))
    ends = np.cumsum(SIZES)
    for source, (size, expected) in enumerate(zip(SIZES, (667, 222, 111), strict=True)):
        of_source = (samples >= ends[source] - size) & (samples < ends[source])
        assert [of_source[:ROUND].sum(), of_source[ROUND:].sum()] == [expected, expected]
        own = samples[of_source] - (ends[source] - size)
        epochs = [own[i : i + size].tolist() for i in range(0, len(own) - size + 1, size)]
        assert all(sorted(epoch) == list(range(size)) for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) > 1
    assert samples[:100].tolist() != samples[ROUND : ROUND + 100].tolist()


def test_the_batch_size_cuts_the_same_mixture_into_other_steps() -> None:
    assert mixture(1200, 1) == mixture(400, 3) == mixture(1, 1200)
    assert mixture(100, 1) != mixture(100, 1, seed=1)


def test_a_round_has_every_source_and_no_more() -> None:
    assert round_numbers((1, 1, 1)) == (334, 333, 333)
    assert round_numbers((1e9, 1, 1)) == (998, 1, 1)
    assert round_numbers((5,)) == (ROUND,)


def test_the_mixture_is_the_documented_one() -> None:
    assert mixture(1, 12) == [15, 26, 53, 1, 37, 18, 29, 43, 3, 57, 66, 59]


def by_documents(run_lengths: tuple[int, ...], batch_size: int, num_steps: int, seed: int = 0) -> np.ndarray:
    order = DocumentOrder(HASH, seed, np.array(run_lengths), batch_size)
    return np.stack([order.ids(step) for step in range(num_steps)])


RUNS = (1, 7, 1, 1, 4, 12, 2, 1, 1, 3)


def test_documents_order_keeps_each_document_in_one_row_and_every_sequence_once_an_epoch() -> None:
    size = sum(RUNS)
    for batch_size in (1, 2, 3, 4, 5, 40):
        steps = by_documents(RUNS, batch_size, 3 * size)
        stream = steps.flatten()
        epochs = [stream[first : first + size].tolist() for first in range(0, 3 * size, size)]
        assert all(sorted(epoch) == list(range(size)) for epoch in epochs)
        assert batch_size == 40 or epochs[0] != epochs[1]
        firsts = np.cumsum((0, *RUNS))
        together = 0
        for first, length in zip(firsts, RUNS, strict=False):
            places = [epochs[0].index(sequence) for sequence in range(first, first + length)]
            together += set(np.diff(places)) <= {batch_size}
        assert together >= len(RUNS) - max(0, batch_size - 1)  # only those dealt last can have been cut


def test_documents_order_depends_on_the_seed_alone() -> None:
    assert by_documents(RUNS, 4, 9).tolist() == by_documents(RUNS, 4, 9).tolist()
    assert by_documents(RUNS, 4, 9).tolist() != by_documents(RUNS, 4, 9, seed=1).tolist()
    later = DocumentOrder(HASH, 0, np.array(RUNS), 4)
    assert later.ids(20).tolist() == by_documents(RUNS, 4, 21)[20].tolist()
