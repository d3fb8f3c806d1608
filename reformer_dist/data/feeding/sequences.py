"""Reading sequences: a prepared corpus, a plan and an objective in, any shard of any examples out, as numpy arrays.

What Ray Data's tasks run is here, apart from `loader`, so that their processes need not load torch.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from reformer_dist.config import Config, DataConfig
from reformer_dist.config.sections.data import TEXT
from reformer_dist.data.feeding.examples import HELD_OUT, IGNORED_LABEL, Examples, Place, Stretch
from reformer_dist.data.feeding.order import DocumentOrder, mixture_ids, rows_of, sample_ids
from reformer_dist.data.feeding.packing import SequencePlan, join_plans, plan_sequences
from reformer_dist.data.preparing.corpus import Corpus
from reformer_dist.data.preparing.manifest import ScopeName
from reformer_dist.errors import ConfigError

Rows = dict[str, NDArray[Any]]
"""Arrays [rows, shard length] int32 called tokens, labels, positions and documents, as in `Batch`."""
COLUMNS = ("tokens", "labels", "positions", "documents")


def num_positions(corpus: Corpus, split: ScopeName, lead: str | None = None) -> NDArray[np.int64]:
    """Positions of each document, int64 [documents]: n + 1 for n tokens, m + 1 more for m of the field that leads them."""
    positions = corpus.document_lengths(split) + 1
    return positions if lead is None else positions + corpus.document_lengths(split, lead) + 1


def split_plan(corpus: Corpus, split: ScopeName, data: DataConfig, lead: str | None = None) -> SequencePlan:
    """How the documents of a split are cut and packed, with the positions that `num_positions` says.

    With `data.weights` no sequence mixes sources, and those of the first source come first.
    """
    return join_plans(source_plans(corpus, split, data, lead))


def source_plans(corpus: Corpus, split: ScopeName, data: DataConfig, lead: str | None = None) -> list[SequencePlan]:
    """The plan of each source; one for all of them unless `data.weights` tells them apart."""
    positions = num_positions(corpus, split, lead)
    if data.weights is None:
        return [plan_sequences(positions, data.sequence_length)]
    sources = corpus.document_sources(split)
    members = [np.flatnonzero(sources == source) for source in range(corpus.manifest.num_sources)]
    return [plan_sequences(positions[some], data.sequence_length).of_documents(some) for some in members]


class SequenceReader:
    """Reads one shard of any sequences of a split.

    Attributes:
        plan: where each sequence's segments lie.
        source_sizes: sequences of each source, in the plan's order; one number unless `data.weights` is set.
        shard_length: positions in a shard, ceil(sequence_length / num_shards); the last shard is padded to it.
    """

    def __init__(
        self,
        corpus: Corpus,
        split: ScopeName,
        data: DataConfig,
        num_shards: int,
        lead: str | None = None,
        plans: list[SequencePlan] | None = None,
    ) -> None:
        """Read a split by the plans of its sources, which by default are made here; for `lead` see `Examples`."""
        plans = source_plans(corpus, split, data, lead) if plans is None else plans
        self.plan = join_plans(plans)
        self.source_sizes = tuple(plan.num_sequences for plan in plans)
        self.shard_length = -(-data.sequence_length // num_shards)
        self._corpus = corpus
        self._data = data
        self._orders: dict[tuple[int, int], DocumentOrder] = {}
        self._split: ScopeName = split
        self._starts: dict[str, NDArray[np.int64]] = {}
        self._lengths = corpus.document_lengths(split)
        self._lead = lead
        self._lead_lengths = corpus.document_lengths(split, lead) if lead else None

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
        for row, (sequence, place) in enumerate(zip(sequences, places, strict=True)):
            into = {name: rows[name][row] for name in COLUMNS}
            self._fill(examples, sequence, place, shard * self.shard_length, into)
        return rows

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

    def _fill(self, examples: Examples, sequence: int, place: Place, first: int, row: Rows) -> None:
        """Write the positions of a sequence from `first` on into a row."""
        segment_start = 0
        for number, (document, offset, length) in enumerate(self.plan.segments(sequence)):
            begin = max(segment_start, first)
            end = min(segment_start + length, first + self.shard_length)
            if begin < end:
                here = slice(begin - first, end - first)
                stretches = {
                    field: self._stretch(field, document, offset + begin - segment_start, range(begin, end))
                    for field in examples.fields
                }
                row["tokens"][here], row["labels"][here] = examples.example(stretches, place)
                row["positions"][here] = np.arange(begin, end) - (segment_start if self._data.reset_positions else 0)
                row["documents"][here] = 0 if self._data.attend_across_documents else number
            segment_start += length

    def _stretch(self, field: str, document: int, offset: int, positions: range) -> Stretch:
        """What a field of a document has from `offset` on, for these positions of a sequence."""
        num_lead = 0 if self._lead_lengths is None else int(self._lead_lengths[document]) + 1
        entries = self._read_with_lead(field, document, offset, len(positions) + 1, num_lead)
        size, tokenizer = num_lead + int(self._lengths[document]) + 1, self._corpus.tokenizer_of(field)
        return Stretch(entries, offset, size, positions.start, tokenizer, num_lead)

    def _read_with_lead(self, field: str, document: int, first: int, length: int, num_lead: int) -> NDArray[Any]:
        """`length` entries from `first` on, of which the first `num_lead` of a document are of the field that leads it."""
        if first >= num_lead:
            return self._read_document(field, document, first - num_lead, length)
        assert self._lead is not None
        of_lead = self._read_document(self._lead, document, first, min(length, num_lead - first))
        if len(of_lead) == length:
            return of_lead
        rest = self._read_document(field, document, 0, length - len(of_lead))
        return np.concatenate([of_lead, rest])

    def _read_document(self, field: str, document: int, first: int, length: int) -> NDArray[Any]:
        """`length` entries from `first` on of boundary, a field's tokens of the document, boundary."""
        if field not in self._starts:
            self._starts[field] = self._corpus.document_starts(self._split, field)
        start = int(self._starts[field][document])
        lengths = self._lead_lengths if field == self._lead else self._lengths
        assert lengths is not None
        end = start + int(lengths[document])
        begin = start + first - 1
        tokens = self._corpus.read(max(begin, start), min(begin + length, end), field)
        edges = (int(begin < start), int(begin + length > end))
        boundary = self._corpus.tokenizer_of(field).boundary
        return np.pad(tokens, edges, constant_values=boundary) if any(edges) else tokens


def check_fields(examples: Examples, corpus: Corpus) -> None:
    """Whether a corpus has the fields that examples are made of, at the same positions as the text, and what leads it.

    Raises:
        ConfigError: it lacks one, one has other positions, or what leads the text has other tokens.
    """
    fields = (TEXT, *(field for field in examples.fields if field != TEXT))
    for field in fields:
        corpus.tokenizer_of(field)
    if apart := [field for field in fields[1:] if corpus.aligned_with(field) != TEXT]:
        name = f"data.fields.{apart[0]}.aligned_with"
        raise ConfigError(
            f"{name} = {corpus.aligned_with(apart[0])}: the objective needs it at {TEXT}'s positions; {TEXT} works"
        )
    lead = examples.lead
    if lead and corpus.tokenizer_of(lead).to_json() != corpus.tokenizer_of().to_json():
        raise ConfigError(
            f"data.fields.{lead}.tokenizer makes other tokens than {TEXT}'s, and both are read by one model; bytes works"
            " for both, or one tokenizer_file"
        )


@lru_cache(4)
def open_reader(
    folder: str, corpus_hash: str, split: ScopeName, data: DataConfig, num_shards: int, lead: str | None = None
) -> SequenceReader:
    """A reader of the corpus with that hash in `folder`, planned once a process.

    Raises:
        OSError: another corpus has taken its place.
    """
    corpus = Corpus.open(folder, verify=False)
    if corpus.hash != corpus_hash:
        raise OSError(f"prepared corpus: {folder} is not the one that training began with; start again")
    return SequenceReader(corpus, split, data, num_shards, lead)


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
    reader = open_reader(folder, corpus_hash, "train", config.data, shards, examples.lead)
    for step in steps:
        records = [
            {
                "first_row": first_row,
                "num_rows": len(rows["tokens"]),
                "shard": shard,
                "ends_step": False,
                **{name: rows[name].tobytes() for name in COLUMNS},
            }
            for first_row, rows in read_step(reader, examples, config, data_group, shard, step, offset)
        ]
        records[-1]["ends_step"] = True
        yield pa.Table.from_pylist(records)
