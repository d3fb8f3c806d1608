"""Whatever happens to a training (kills, other numbers of workers), every step sees the tokens it would have seen."""

from collections import Counter
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reformer_dist.config import Config
from reformer_dist.data.feeding.loader import training_batches
from reformer_dist.data.feeding.sequences import SequenceReader, read_held_out
from reformer_dist.data.preparing.corpus import Corpus
from tests.corpora import NEXT_TOKEN, grid_config, prepare_here, random_documents, write_documents

LENGTH, BATCH = 24, 6
GRIDS = [(1, 1), (2, 1), (3, 1), (1, 2), (1, 3), (2, 2), (1, 4), (6, 1), (4, 1), (5, 1)]
"""(data groups, sequence shards) of 1 to 6 workers; in the last two groups have batches of other sizes."""
ORDERS: tuple[dict[str, object], ...] = ({}, {"data__weights": (2.0, 1.0)}, {"data__order": "documents"})
"""Fields of what decides the order: every sequence on its own, a mixture, documents kept together."""

Tokens = Counter[tuple[int, int, int]]
"""How often a (row of the batch, position, token) was consumed."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("history")
    lengths = {f"{i:02d}": 5 + 13 * i % 70 for i in range(24)}
    write_documents(folder / "a", random_documents(lengths))
    write_documents(folder / "b", random_documents({f"b{name}": n for name, n in lengths.items()}, seed=1))
    return prepare_here(folder / "a", folder, sources=(f"{folder}/a", f"{folder}/b"))


def config_of(grid: tuple[int, int], order: Mapping[str, object], steps: int, micro: int = 1) -> Config:
    fields = {"data__sequence_length": LENGTH, "data__sources": ("a", "b"), "train__batch_size": BATCH, **order}
    return grid_config(*grid, train__micro_batch_size=micro, train__steps=steps, **fields)


def consumed(corpus: Corpus, config: Config, start_step: int) -> list[Tokens]:
    """What all workers of a grid consumed together in each step from `start_step` on."""
    shards = config.parallel.sequence_shards
    steps: list[Tokens] = [Counter() for _ in range(config.train.steps - start_step)]
    for worker in range(config.train.workers):
        batches = training_batches(corpus, config, NEXT_TOKEN, worker // shards, worker % shards, start_step)
        for tokens, micro_batches in zip(steps, batches, strict=True):
            for batch in micro_batches:
                rows, places = np.nonzero(batch.documents_BT.numpy() >= 0)
                values = batch.tokens_BT.numpy()[rows, places]
                rows, places = rows + batch.first_row, places + batch.first_position
                tokens.update(zip(rows.tolist(), places.tolist(), values.tolist(), strict=True))
    return steps


def expected(corpus: Corpus, config: Config) -> list[Tokens]:
    """What each step should consume: its sequences, read whole from the corpus by their numbers."""
    reader = SequenceReader(corpus, "train", config.data, 1)
    steps = []
    for step in range(config.train.steps):
        rows = read_held_out(reader, NEXT_TOKEN, 0, reader.samples(config, step).tolist(), BATCH, 0)
        held = np.argwhere(rows["documents"] >= 0).tolist()
        steps.append(Counter((row, place, int(rows["tokens"][row, place])) for row, place in held))
    return steps


@settings(deadline=None)  # a busy machine is slow, not wrong
@given(
    history=st.lists(st.tuples(st.sampled_from(GRIDS), st.integers(1, 9), st.integers(0, 5)), min_size=1, max_size=5),
    order=st.sampled_from(ORDERS),
    micro=st.integers(1, 4),
)
def test_kills_and_resizes_change_nothing(
    corpus: Corpus, history: list[tuple[tuple[int, int], int, int]], order: dict[str, object], micro: int
) -> None:
    num_steps = 20
    reference = expected(corpus, config_of((1, 1), order, num_steps))
    step = 0  # of the last checkpoint, which is all that a training keeps of its place
    for grid, steps_run, steps_lost in [*history, ((1, 1), num_steps, 0)]:
        end = min(step + steps_run, num_steps)
        if end > step:
            assert consumed(corpus, config_of(grid, order, end, micro), step) == reference[step:end]
        step = max(step, end - steps_lost)


@settings(deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 9)), min_size=1, max_size=5),
    order=st.sampled_from(ORDERS[:2]),
)
def test_another_batch_size_skips_and_repeats_nothing(
    corpus: Corpus, sizes: list[tuple[int, int]], order: dict[str, object]
) -> None:
    """Some steps of each batch size, one after the other, take the samples that steps of one would have taken."""
    reader = SequenceReader(corpus, "train", config_of((1, 1), order, 1).data, 1)
    taken, step = list[int](), 0
    for steps, size in sizes:
        config = config_of((1, 1), {**order, "train__batch_size": size}, step + steps)
        offset = len(taken) - step * size
        for _ in range(steps):
            taken += reader.samples(config, step, offset).tolist()
            step += 1
    single = config_of((1, 1), {**order, "train__batch_size": 1}, len(taken))
    assert taken == [int(reader.samples(single, sample)[0]) for sample in range(len(taken))]


def test_an_epoch_is_every_position_once(corpus: Corpus) -> None:
    config = config_of((1, 1), {}, 40)
    reader = SequenceReader(corpus, "train", config.data, 1)
    size = reader.plan.num_sequences
    stream = np.concatenate([reader.samples(config, step) for step in range(40)])
    epochs = [stream[first : first + size] for first in range(0, len(stream) - size + 1, size)]
    assert len(epochs) >= 2
    assert all(sorted(epoch.tolist()) == list(range(size)) for epoch in epochs)
    seen: Counter[tuple[int, int]] = Counter()
    for sequence in epochs[1].tolist():
        for document, offset, length in reader.plan.segments(sequence):
            seen.update((document, position) for position in range(offset, offset + length))
    lengths = (corpus.document_lengths("train") + 1).tolist()
    assert seen == Counter((document, position) for document, n in enumerate(lengths) for position in range(n))
