"""Reading sequences: a prepared corpus, a plan and an objective in, any shard of any examples out, as numpy arrays.

What Ray Data's tasks run is here, apart from `loader`, so that their processes need not load torch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from reformer_dist.config import Config, DataConfig
from reformer_dist.config.sections.data import TEXT, field_named
from reformer_dist.data.feeding.entries import EntryReader
from reformer_dist.data.feeding.examples import (
    ALONE,
    HELD_OUT,
    IGNORED_LABEL,
    Examples,
    OtherFields,
    Place,
    Rewritten,
)
from reformer_dist.data.feeding.order import DocumentOrder, mixture_ids, rows_of, sample_ids
from reformer_dist.data.feeding.packing import JointPlan, SequencePlan, join_plans, pack_together, plan_sequences
from reformer_dist.data.feeding.rewriting import RewrittenText, plan_rewritten
from reformer_dist.data.preparing.corpus import Corpus
from reformer_dist.data.preparing.manifest import ScopeName
from reformer_dist.errors import ConfigError

Rows = dict[str, NDArray[Any]]
"""Arrays [rows, shard length] int32 called tokens, labels, positions and documents, as in `Batch`; and those of a source."""
COLUMNS = ("tokens", "labels", "positions", "documents")
SOURCE_COLUMNS = ("source_tokens", "source_positions", "source_documents")


def num_positions(corpus: Corpus, split: ScopeName, others: OtherFields = ALONE) -> NDArray[np.int64]:
    """Positions of each document, int64 [documents]: n + 1 for n tokens, m + 1 more for m of the field that leads them."""
    positions = corpus.document_lengths(split) + 1
    return positions if others.lead is None else positions + corpus.document_lengths(split, others.lead) + 1


def split_plan(corpus: Corpus, split: ScopeName, data: DataConfig, others: OtherFields = ALONE) -> SequencePlan:
    """How the documents of a split are cut and packed, with the positions that `num_positions` says.

    With `data.weights` no sequence mixes sources, and those of the first source come first.
    """
    return join_plans([plan.tracks[0] for plan in source_plans(corpus, split, data, others)])


def source_plans(corpus: Corpus, split: ScopeName, data: DataConfig, others: OtherFields = ALONE) -> list[JointPlan]:
    """The plan of each source of the corpus; one for all of them unless `data.weights` tells them apart.

    Where an encoder reads something, that is the second track. Documents with a field for it are packed whole; for a text
    that is rewritten see `plan_rewritten`.
    """
    positions = num_positions(corpus, split, others)[:, None]
    if others.source is not None:
        positions = np.append(positions, corpus.document_lengths(split, others.source)[:, None] + 1, axis=1)
    if data.weights is None:
        return [_plan(positions, data, others)]
    sources = corpus.document_sources(split)
    members = [np.flatnonzero(sources == source) for source in range(corpus.manifest.num_sources)]
    return [_plan(positions[some], data, others).of_documents(some) for some in members]


def _plan(positions: NDArray[np.int64], data: DataConfig, others: OtherFields) -> JointPlan:
    """The plan of documents with these positions in one or two tracks, [documents, tracks]."""
    if others.rewriting is not None:
        return plan_rewritten(positions[:, 0] - 1, others.rewriting, (data.sequence_length, data.longest_source))
    if positions.shape[1] == 1:
        return JointPlan((plan_sequences(positions[:, 0], data.sequence_length),), np.zeros(0, np.int64))
    return pack_together(positions, (data.sequence_length, data.longest_source))


class SequenceReader:
    """Reads one shard of any sequences of a split.

    Attributes:
        plan: where each sequence's segments lie.
        source_sizes: sequences of each source, in the plan's order; one number unless `data.weights` is set.
        shard_length: positions in a shard, ceil(sequence_length / num_shards); the last shard is padded to it.
        source_shard_length: the same of a source.
    """

    def __init__(
        self,
        corpus: Corpus,
        split: ScopeName,
        data: DataConfig,
        num_shards: int,
        others: OtherFields = ALONE,
        plan: SequencePlan | None = None,
    ) -> None:
        """Read a split by a plan, which by default is made here."""
        plans = source_plans(corpus, split, data, others)
        tracks = [join_plans([each.tracks[track] for each in plans]) for track in range(len(plans[0].tracks))]
        self.plan = tracks[0] if plan is None else plan
        self._source_plan = tracks[1] if others.has_source else None
        self.source_sizes = tuple(plan.num_sequences for plan in plans)
        self.shard_length = -(-data.sequence_length // num_shards)
        self.source_shard_length = -(-data.longest_source // num_shards)
        self._corpus = corpus
        self._data = data
        self._orders: dict[tuple[int, int], DocumentOrder] = {}
        self._others = others
        self._entries = EntryReader(corpus, split, others)
        self._rewritten: RewrittenText | None = None
        if others.rewriting is not None:
            self._rewritten = RewrittenText(others.rewriting, tracks[2], self._entries, corpus.tokenizer_of())

    def read(
        self, examples: Examples, sequences: Sequence[int], places: Sequence[Place], num_rows: int, shard: int
    ) -> Rows:
        """One shard of some sequences as examples; `num_rows` beyond them are wholly padding.

        Args:
            examples: makes them.
            sequences: which ones.
            places: the place of each.
            num_rows: rows of the result.
            shard: index of the shard.
        """
        shape = (num_rows, self.shard_length)
        rows = {name: np.zeros(shape, np.int32) for name in COLUMNS}
        rows["labels"].fill(IGNORED_LABEL)
        rows["documents"].fill(-1)
        made: list[list[Rewritten]] = []  # of each row, where the text is rewritten
        for row, (sequence, place) in enumerate(zip(sequences, places, strict=True)):
            made.append([] if self._rewritten is None else self._rewritten.of(sequence, place))
            into = {name: rows[name][row] for name in COLUMNS}
            self._fill(examples, sequence, place, shard * self.shard_length, into, made[-1])
        return rows if self._source_plan is None else rows | self._read_sources(sequences, num_rows, shard, made)

    def _read_sources(
        self, sequences: Sequence[int], num_rows: int, shard: int, made: Sequence[Sequence[Rewritten]]
    ) -> Rows:
        """One shard of the sources of some sequences, called SOURCE_COLUMNS."""
        assert self._source_plan is not None
        shape, length = (num_rows, self.source_shard_length), self.source_shard_length
        tokens, positions, documents = (np.full(shape, fill, np.int32) for fill in (0, 0, -1))
        for row, sequence in enumerate(sequences):
            for part in _parts(self._source_plan, sequence, shard * length, length, self._data.reset_positions):
                if self._others.source is None:
                    read = made[row][part.number].source[part.offset : part.offset + part.length]
                else:
                    read = self._entries.read(self._others.source, part.document, part.offset, part.length)
                tokens[row, part.here] = read
                positions[row, part.here] = part.positions
                documents[row, part.here] = self._document_number(part)
        return dict(zip(SOURCE_COLUMNS, (tokens, positions, documents), strict=True))

    def samples(self, config: Config, step: int, offset: int = 0) -> NDArray[np.int64]:
        """Sequences of the global batch of a step, int64 [batch_size]: `order` applied to this corpus.

        Row r of step s is global sample s * batch_size + r + offset, which `train.batch_size`, once it was another, makes
        other than 0.
        """
        train, weights = config.train, config.data.weights
        first = step * train.batch_size + offset
        samples = range(first, first + train.batch_size)
        if config.data.order == "documents":
            return self._document_order(train.seed, train.batch_size).ids(step)
        if weights is None:
            return sample_ids(self._corpus.hash, train.seed, self.plan.num_sequences, samples)
        return mixture_ids(self._corpus.hash, train.seed, self.source_sizes, weights, samples)

    def _document_order(self, seed: int, batch_size: int) -> DocumentOrder:
        if self._orders.get((seed, batch_size)) is None:
            runs = self.plan.run_lengths()
            self._orders = {(seed, batch_size): DocumentOrder(self._corpus.hash, seed, runs, batch_size)}
        return self._orders[seed, batch_size]

    def _fill(
        self, examples: Examples, sequence: int, place: Place, first: int, row: Rows, made: Sequence[Rewritten]
    ) -> None:
        """Write the positions of a sequence from `first` on into a row."""
        for part in _parts(self.plan, sequence, first, self.shard_length, self._data.reset_positions):
            places = range(part.here.start + first, part.here.stop + first)
            if self._rewritten is None:
                stretches = {
                    field: self._entries.stretch(field, part.document, part.offset, places) for field in examples.fields
                }
            else:
                stretches = {TEXT: self._rewritten.stretch(made[part.number], part.offset, places)}
            row["tokens"][part.here], row["labels"][part.here] = examples.example(stretches, place)
            row["positions"][part.here] = part.positions
            row["documents"][part.here] = self._document_number(part)

    def _document_number(self, part: "_Part") -> int:
        """The number by which a document's tokens know each other, in its source too; all have one if they may attend."""
        return 0 if self._data.attend_across_documents else part.number


def check_fields(examples: Examples, corpus: Corpus) -> None:
    """Whether a corpus has the fields that examples are made of, at the same positions as the text, and what leads it.

    Raises:
        ConfigError: it lacks one, one has other positions, or what leads the text has other tokens.
    """
    fields = (TEXT, *(field for field in examples.fields if field != TEXT))
    if examples.others.source is None and TEXT not in corpus.fields:  # where there is a source, it may be called target
        raise ConfigError(f"prepared corpus {corpus.folder} has no field text; its fields: {', '.join(corpus.fields)}")
    for field in fields:
        corpus.tokenizer_of(field)
    if apart := [field for field in fields[1:] if corpus.aligned_with(field) != TEXT]:
        name = f"data.fields.{apart[0]}.aligned_with"
        raise ConfigError(
            f"{name} = {corpus.aligned_with(apart[0])}: the objective needs it at {TEXT}'s positions; {TEXT} works"
        )
    for other in examples.others.names:
        if corpus.tokenizer_of(other).to_json() != corpus.tokenizer_of().to_json():
            text = field_named(TEXT, corpus.fields)
            raise ConfigError(
                f"data.fields.{other}.tokenizer makes other tokens than {text}'s, and both are read by one model; bytes"
                " works for both, or one tokenizer_file"
            )


@dataclass(frozen=True)
class _Part:
    """Part of a document that lies in one sequence and on one shard."""

    number: int
    """Of the document in its sequence."""
    document: int
    """Index of the document in the split."""
    offset: int
    """First position taken of it."""
    here: slice
    """Where its positions lie in the shard."""
    positions: NDArray[np.int64]
    """Index of each for the position embeddings."""

    @property
    def length(self) -> int:
        """Positions taken."""
        return self.here.stop - self.here.start


def _parts(plan: SequencePlan, sequence: int, first: int, length: int, reset: bool) -> Iterator[_Part]:
    """The documents of a sequence at the `length` positions from `first` on; `reset` begins each at position 0."""
    segment_start = 0
    for number, (document, offset, size) in enumerate(plan.segments(sequence)):
        begin, end = max(segment_start, first), min(segment_start + size, first + length)
        if begin < end:
            positions = np.arange(begin, end) - (segment_start if reset else 0)
            here = slice(begin - first, end - first)
            yield _Part(number, document, offset + begin - segment_start, here, positions)
        segment_start += size


@lru_cache(4)
def open_reader(
    folder: str,
    corpus_hash: str,
    split: ScopeName,
    data: DataConfig,
    num_shards: int,
    others: OtherFields = ALONE,
) -> SequenceReader:
    """A reader of the corpus with that hash in `folder`, planned once a process.

    Raises:
        OSError: another corpus has taken its place.
    """
    corpus = Corpus.open(folder, verify=False)
    if corpus.hash != corpus_hash:
        raise OSError(f"prepared corpus: {folder} is not the one that training began with; start again")
    return SequenceReader(corpus, split, data, num_shards, others)


def read_step(
    reader: SequenceReader, examples: Examples, config: Config, data_group: int, shard: int, step: int, offset: int = 0
) -> Iterator[tuple[int, Rows]]:
    """(first row, rows) of each micro-batch of a data group in a step.

    Every data group has the same number of them; one with fewer rows may end with a row that is wholly padding.
    """
    train = config.train
    sequences = reader.samples(config, step, offset).tolist()
    rows = rows_of(train.batch_size, config.data_groups, data_group)
    most_rows = -(-train.batch_size // config.data_groups)
    for first_row in range(rows.start, rows.start + most_rows, train.micro_batch_size):
        taken = range(first_row, min(first_row + train.micro_batch_size, rows.stop))
        chosen, places = sequences[taken.start : taken.stop], [Place(train.seed, step, row) for row in taken]
        yield first_row, reader.read(examples, chosen, places, max(1, len(taken)), shard)


def read_held_out(
    reader: SequenceReader, examples: Examples, seed: int, sequences: Sequence[int], num_rows: int, shard: int
) -> Rows:
    """Rows of sequences that are not trained on, padded to `num_rows`; the same at any time and on any worker."""
    places = [Place(seed, HELD_OUT, sequence) for sequence in sequences]
    return reader.read(examples, sequences, places, num_rows, shard)


def read_steps(
    folder: str,
    corpus_hash: str,
    config: Config,
    examples: Examples,
    data_group: int,
    shard: int,
    offset: int,
    steps: range,
) -> Iterator[pa.Table]:
    """A task of `training_dataset`: a table for each step with a record for each micro-batch."""
    shards = config.parallel.sequence_shards
    reader = open_reader(folder, corpus_hash, "train", config.data, shards, examples.others)
    for step in steps:
        records = [
            {
                "first_row": first_row,
                "num_rows": len(rows["tokens"]),
                "shard": shard,
                "ends_step": False,
                **{name: of_name.tobytes() for name, of_name in rows.items()},
            }
            for first_row, rows in read_step(reader, examples, config, data_group, shard, step, offset)
        ]
        records[-1]["ends_step"] = True
        yield pa.Table.from_pylist(records)
