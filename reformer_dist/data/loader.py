"""Feeding: a prepared corpus in, this worker's shards of the right sequences out, step after step.

`SequenceReader`, `training_batches` and `validation_batches` are plain Python. `training_dataset` and `batches_from`
send the same batches through Ray Data, whose tasks read ahead and hand a worker its own shard alone, in order.
"""

from collections.abc import Iterator
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
import torch
from numpy.typing import NDArray

from reformer_dist.config import Config, DataConfig
from reformer_dist.data.batch import IGNORED_LABEL, Batch
from reformer_dist.data.corpus import Corpus, SplitName
from reformer_dist.data.order import sample_ids
from reformer_dist.data.packing import SequencePlan, plan_sequences
from reformer_dist.data.streaming import iterate_tables, ordered_dataset

Rows = dict[str, NDArray[Any]]
"""Arrays [rows, shard length] int32 called tokens, labels, positions and documents, as in `Batch`."""
COLUMNS = ("tokens", "labels", "positions", "documents")
BLOCK_BYTES = 1 << 20
PREFETCHED_BLOCKS = 2
MIN_STEPS_A_TASK, MAX_TASKS = 8, 512


def split_plan(corpus: Corpus, split: SplitName, sequence_length: int) -> SequencePlan:
    """How the documents of a split are cut and packed; a document of n tokens has n + 1 positions."""
    return plan_sequences(corpus.document_lengths(split) + 1, sequence_length)


class SequenceReader:
    """Reads one shard of any sequences of a split.

    Attributes:
        plan: where each sequence's pieces lie.
        shard_length: positions in a shard, ceil(sequence_length / num_shards); the last shard is padded to it.
    """

    def __init__(self, corpus: Corpus, split: SplitName, data: DataConfig, num_shards: int) -> None:
        self.plan = split_plan(corpus, split, data.sequence_length)
        self.shard_length = -(-data.sequence_length // num_shards)
        self._corpus = corpus
        self._split: SplitName = split
        self._data = data
        self._ends = np.cumsum(corpus.document_lengths(split))

    def read(self, sequences: NDArray[np.int64], num_rows: int, shard: int) -> Rows:
        """One shard of some sequences; `num_rows` beyond them are wholly padding."""
        shape = (num_rows, self.shard_length)
        rows = {name: np.zeros(shape, np.int32) for name in COLUMNS}
        rows["labels"].fill(IGNORED_LABEL)
        rows["documents"].fill(-1)
        for row, sequence in enumerate(sequences.tolist()):
            self._fill(sequence, shard * self.shard_length, {name: rows[name][row] for name in COLUMNS})
        return rows

    def _fill(self, sequence: int, first: int, row: Rows) -> None:
        """Write the positions of a sequence from `first` on into a row."""
        segment_start = 0
        for number, (document, offset, length) in enumerate(self.plan.segments(sequence)):
            begin = max(segment_start, first)
            end = min(segment_start + length, first + self.shard_length)
            if begin < end:
                here = slice(begin - first, end - first)
                tokens = self._read_document(document, offset + begin - segment_start, end - begin + 1)
                row["tokens"][here] = tokens[:-1]
                row["labels"][here] = tokens[1:]
                row["positions"][here] = np.arange(begin, end) - (segment_start if self._data.reset_positions else 0)
                row["documents"][here] = 0 if self._data.attend_across_documents else number
            segment_start += length

    def _read_document(self, document: int, first: int, length: int) -> NDArray[Any]:
        """`length` entries from `first` on of boundary, tokens of the document, boundary."""
        end = int(self._ends[document])
        start = int(self._ends[document - 1]) if document else 0
        begin = start + first - 1
        tokens = self._corpus.read(self._split, max(begin, start), min(begin + length, end))
        edges = (int(begin < start), int(begin + length > end))
        return np.pad(tokens, edges, constant_values=self._corpus.tokenizer.boundary) if any(edges) else tokens


def training_batches(
    corpus: Corpus, config: Config, data_group: int, shard: int, start_step: int = 0
) -> Iterator[list[Batch]]:
    """Micro-batches of one worker for each step from `start_step` to `train.steps`, read in this process."""
    reader = SequenceReader(corpus, "train", config.data, config.parallel.sequence_shards)
    for step in range(start_step, config.train.steps):
        rows_of_step = _read_step(reader, corpus.hash, config, data_group, shard, step)
        yield [_batch(rows, first_row, shard) for first_row, rows in rows_of_step]


def validation_batches(
    corpus: Corpus,
    config: Config,
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
        config: sequence length, shards and micro-batch size.
        data_group: index of this worker's data group.
        shard: index of this worker's shard.
        num_data_groups: data groups that share the work.
        split: what to score.
        max_sequences: score only the first so many.
    """
    reader = SequenceReader(corpus, split, config.data, config.parallel.sequence_shards)
    num_sequences = min(reader.plan.num_sequences, max_sequences or reader.plan.num_sequences)
    num_rows = config.train.micro_batch_size
    for first in range(0, num_sequences, num_rows * num_data_groups):
        first_row = data_group * num_rows
        begin = min(first + first_row, num_sequences)
        sequences = np.arange(begin, min(begin + num_rows, num_sequences))
        yield _batch(reader.read(sequences, num_rows, shard), first_row, shard)


def training_dataset(
    corpus: Corpus, config: Config, data_group: int, shard: int, start_step: int = 0
) -> ray.data.Dataset:
    """The micro-batches of `training_batches` as a Ray Data dataset, a row each, for `batches_from`.

    Its iterator may be sent to a train worker and used there, also while train workers hold every CPU of the cluster.
    """
    steps = range(start_step, config.train.steps)
    steps_a_task = max(MIN_STEPS_A_TASK, -(-len(steps) // MAX_TASKS))
    read = partial(_read_steps, corpus.folder, corpus.hash, config, data_group, shard)
    tasks = [partial(read, steps[first : first + steps_a_task]) for first in range(0, len(steps), steps_a_task)]
    return ordered_dataset(tasks, BLOCK_BYTES)


def batches_from(iterator: ray.data.DataIterator) -> Iterator[list[Batch]]:
    """The micro-batches of each step, from an iterator of `training_dataset`, read ahead of their use."""
    micro_batches = []
    for table in iterate_tables(iterator, PREFETCHED_BLOCKS):
        for record in table.to_pylist():
            shape = (record["num_rows"], -1)
            rows = {name: np.frombuffer(record[name], np.int32).reshape(shape) for name in COLUMNS}
            micro_batches.append(_batch(rows, record["first_row"], record["shard"]))
            if record["ends_step"]:
                yield micro_batches
                micro_batches = []


def _read_steps(
    folder: str, corpus_hash: str, config: Config, data_group: int, shard: int, steps: range
) -> Iterator[pa.Table]:
    """A task of `training_dataset`: a table for each step."""
    reader = _open_reader(folder, corpus_hash, config.data, config.parallel.sequence_shards)
    for step in steps:
        records = [
            {
                "first_row": first_row,
                "num_rows": len(rows["tokens"]),
                "shard": shard,
                "ends_step": False,
                **{name: rows[name].tobytes() for name in COLUMNS},
            }
            for first_row, rows in _read_step(reader, corpus_hash, config, data_group, shard, step)
        ]
        records[-1]["ends_step"] = True
        yield pa.Table.from_pylist(records)


@lru_cache(4)
def _open_reader(folder: str, corpus_hash: str, data: DataConfig, num_shards: int) -> SequenceReader:
    """A reader that the tasks of one process share."""
    corpus = Corpus.open(folder, verify=False)
    if corpus.hash != corpus_hash:
        raise OSError(f"prepared corpus: {folder} is not the one that training began with; start again")
    return SequenceReader(corpus, "train", data, num_shards)


def _read_step(
    reader: SequenceReader, corpus_hash: str, config: Config, data_group: int, shard: int, step: int
) -> Iterator[tuple[int, Rows]]:
    """(first row, rows) of each micro-batch of a data group in a step."""
    train = config.train
    sequences = sample_ids(corpus_hash, train.seed, reader.plan.num_sequences, train.batch_size, step)
    group_rows = train.batch_size // config.data_groups
    end = (data_group + 1) * group_rows
    for first_row in range(data_group * group_rows, end, train.micro_batch_size):
        chosen = sequences[first_row : min(first_row + train.micro_batch_size, end)]
        yield first_row, reader.read(chosen, len(chosen), shard)


def _batch(rows: Rows, first_row: int, shard: int) -> Batch:
    tokens, labels, positions, documents = (torch.from_numpy(rows[name].astype(np.int64)) for name in COLUMNS)
    return Batch(tokens, labels, positions, documents, first_row, first_position=shard * tokens.shape[1])
