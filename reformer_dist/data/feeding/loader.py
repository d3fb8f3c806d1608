"""Feeding: a prepared corpus and an objective in, this worker's shards of the right examples out, step after step.

`training_batches` and `validation_batches` read in this process. `training_dataset` and `batches_from` send the same
batches through Ray Data, whose tasks read ahead and hand a worker its own shard alone, in order. `batches_at_once` begins
with the former, since Ray Data takes seconds to start.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice

import numpy as np
import ray.data
import torch

from reformer_dist.config import Config
from reformer_dist.data.feeding.batch import Batch, SourceBatch
from reformer_dist.data.feeding.examples import Examples
from reformer_dist.data.feeding.sequences import (
    COLUMNS,
    SOURCE_COLUMNS,
    Rows,
    open_reader,
    read_held_out,
    read_step,
    read_steps,
)
from reformer_dist.data.feeding.sequences import split_plan as split_plan
from reformer_dist.data.preparing.corpus import Corpus
from reformer_dist.data.preparing.manifest import SplitName
from reformer_dist.data.streaming import iterate_tables, ordered_dataset

BLOCK_BYTES = 1 << 20
PREFETCHED_BLOCKS = 2
MIN_STEPS_A_TASK, MAX_TASKS = 8, 512
FIRST_STEPS = 8
"""Read in this process while Ray Data starts."""


def training_batches(
    corpus: Corpus,
    config: Config,
    examples: Examples,
    data_group: int,
    shard: int,
    start_step: int = 0,
    offset: int = 0,
) -> Iterator[list[Batch]]:
    """Micro-batches of one worker for each step from `start_step` to `train.steps`, read in this process.

    For `offset` see `SequenceReader.samples`.
    """
    shards = config.parallel.sequence_shards
    reader = open_reader(corpus.folder, corpus.hash, "train", config.data, shards, examples.others)
    for step in range(start_step, config.train.steps):
        rows_of_step = read_step(reader, examples, config, data_group, shard, step, offset)
        yield [batch_of(rows, first_row, shard) for first_row, rows in rows_of_step]


def validation_batches(
    corpus: Corpus,
    config: Config,
    examples: Examples,
    data_group: int,
    shard: int,
    num_data_groups: int,
    split: SplitName = "validation",
    max_sequences: int | None = None,
) -> Iterator[Batch]:
    """Every sequence of a split once over all data groups, in order, `train.micro_batch_size` at a time.

    Every data group gets the same number of batches; rows beyond the last sequence are wholly padding.

    Args:
        corpus: the corpus.
        config: sequence length, shards, micro-batch size and seed.
        examples: makes the examples.
        data_group: index of this worker's data group.
        shard: index of this worker's shard.
        num_data_groups: data groups that share the work.
        split: what to score.
        max_sequences: score only so many, spread evenly over the split, since neighbours are often of one document.
    """
    shards = config.parallel.sequence_shards
    reader = open_reader(corpus.folder, corpus.hash, split, config.data, shards, examples.others)
    available = reader.plan.num_sequences
    num_sequences = min(available, max_sequences or available)
    num_rows = config.train.micro_batch_size
    for first in range(0, num_sequences, num_rows * num_data_groups):
        first_row = data_group * num_rows
        begin = min(first + first_row, num_sequences)
        sequences = np.arange(begin, min(begin + num_rows, num_sequences)) * available // num_sequences
        rows = read_held_out(reader, examples, config.train.seed, sequences.tolist(), num_rows, shard)
        yield batch_of(rows, first_row, shard)


def training_dataset(
    corpus: Corpus,
    config: Config,
    examples: Examples,
    data_group: int,
    shard: int,
    start_step: int = 0,
    offset: int = 0,
) -> ray.data.Dataset:
    """The micro-batches of `training_batches` as a Ray Data dataset, a row each, for `batches_from`.

    Its iterator may be sent to a train worker and used there, also while train workers hold every CPU of the cluster.
    """
    steps = range(start_step, config.train.steps)
    steps_a_task = max(MIN_STEPS_A_TASK, -(-len(steps) // MAX_TASKS))
    read = partial(read_steps, corpus.folder, corpus.hash, config, examples, data_group, shard, offset)
    tasks = [partial(read, steps[first : first + steps_a_task]) for first in range(0, len(steps), steps_a_task)]
    return ordered_dataset(tasks, BLOCK_BYTES)


def batches_from(iterator: ray.data.DataIterator) -> Iterator[list[Batch]]:
    """The micro-batches of each step, from an iterator of `training_dataset`, read ahead of their use."""
    micro_batches = []
    for table in iterate_tables(iterator, PREFETCHED_BLOCKS):
        for record in table.to_pylist():
            shape = (record["num_rows"], -1)
            names = [name for name in (*COLUMNS, *SOURCE_COLUMNS) if name in record]
            rows = {name: np.frombuffer(record[name], np.int32).reshape(shape) for name in names}
            micro_batches.append(batch_of(rows, record["first_row"], record["shard"]))
            if record["ends_step"]:
                yield micro_batches
                micro_batches = []


def batches_at_once(
    corpus: Corpus,
    config: Config,
    examples: Examples,
    data_group: int,
    shard: int,
    start_step: int = 0,
    offset: int = 0,
) -> Iterator[list[Batch]]:
    """The micro-batches of `training_batches`: FIRST_STEPS read in this process, then those that Ray Data has read ahead.

    It starts when the second step is asked for, so that the first one has the processors to itself.
    """
    here = (corpus, config, examples, data_group, shard)
    handover = start_step + FIRST_STEPS
    first = islice(training_batches(*here, start_step, offset), FIRST_STEPS)
    yield from islice(first, 1)
    if handover >= config.train.steps:
        yield from first
        return
    ahead = batches_from(training_dataset(*here, handover, offset).iterator())
    with ThreadPoolExecutor(1) as beside:
        head = beside.submit(next, ahead)
        yield from first
        yield head.result()
    yield from ahead


def batch_of(rows: Rows, first_row: int, shard: int) -> Batch:
    """Rows of one shard as tensors."""
    tensors = {name: torch.from_numpy(of_name.astype(np.int64)) for name, of_name in rows.items()}
    tokens, labels, positions, documents = (tensors[name] for name in COLUMNS)
    source = None
    if SOURCE_COLUMNS[0] in tensors:
        read, places, of_documents = (tensors[name] for name in SOURCE_COLUMNS)
        source = SourceBatch(read, places, of_documents, shard * read.shape[1])
    return Batch(tokens, labels, positions, documents, first_row, shard * tokens.shape[1], source)
