"""Feeding several fields: a prepared corpus in, plans that keep a document's fields together and shards of any field out."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reformer_dist.config import DataConfig
from reformer_dist.config.sections.data import TEXT
from reformer_dist.data.feeding.packing import Int64s, SequencePlan, pack_together, plan_sequences
from reformer_dist.data.feeding.sequences import split_plan
from reformer_dist.data.preparing.corpus import Corpus
from reformer_dist.data.preparing.manifest import SplitName

PADDING = -1
"""The document of a position that holds nothing."""


class FieldReader:
    """Reads one shard of any sequences of a split, field by field.

    A document of n tokens has n + 1 positions in a field: a boundary, then its tokens. Fields that are aligned with each
    other share positions: they are cut and packed by one plan. Fields with lengths of their own are packed together, whole
    documents only.

    Attributes:
        plans: where the sequences of each field lie; sequence i of each holds the same documents.
        left_out: int64, documents that are longer than a sequence in some field and so in none.
    """

    def __init__(
        self, corpus: Corpus, split: SplitName, sequence_lengths: Mapping[str, int], num_shards: int = 1
    ) -> None:
        """Plan the sequences.

        Args:
            corpus: the corpus.
            split: the split.
            sequence_lengths: the fields to read and the positions in a sequence of each; equal for aligned fields.
            num_shards: shards of a sequence.
        """
        self._corpus, self._split = corpus, split
        self._shard_lengths = {field: -(-length // num_shards) for field, length in sequence_lengths.items()}
        self._starts = {field: corpus.document_starts(split, field) for field in sequence_lengths}
        tracks: dict[str, int] = {}
        for field, length in sequence_lengths.items():
            leader = corpus.aligned_with(field) or field
            assert tracks.setdefault(leader, length) == length, "aligned fields share positions"
        lengths = np.stack([corpus.document_lengths(split, leader) + 1 for leader in tracks], axis=1)
        plans, self.left_out = _plans(lengths, tuple(tracks.values()))
        of_track = dict(zip(tracks, plans, strict=True))
        self.plans = {field: of_track[corpus.aligned_with(field) or field] for field in sequence_lengths}

    @property
    def num_sequences(self) -> int:
        """Sequences of every field."""
        return next(iter(self.plans.values())).num_sequences

    def read(self, field: str, sequences: Int64s, shard: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """One shard of some sequences of a field.

        Returns:
            int32 [rows, shard length] tokens, and as much the index of each one's document in its sequence, PADDING where
            there is none.
        """
        length = self._shard_lengths[field]
        tokens = np.zeros((len(sequences), length), np.int32)
        documents = np.full((len(sequences), length), PADDING, np.int32)
        for row, sequence in enumerate(sequences.tolist()):
            segment_start = 0
            for number, (document, offset, size) in enumerate(self.plans[field].segments(sequence)):
                begin = max(segment_start, shard * length)
                end = min(segment_start + size, (shard + 1) * length)
                if begin < end:
                    here = slice(begin - shard * length, end - shard * length)
                    tokens[row, here] = self._positions(field, document, offset + begin - segment_start, end - begin)
                    documents[row, here] = number
                segment_start += size
        return tokens, documents

    def _positions(self, field: str, document: int, first: int, length: int) -> NDArray[Any]:
        """`length` entries from `first` on of boundary, tokens of the document."""
        start = int(self._starts[field][document])
        tokens = self._corpus.read(start + max(first - 1, 0), start + first - 1 + length, field)
        boundary = self._corpus.tokenizer_of(field).boundary
        return tokens if first else np.append(np.array([boundary], tokens.dtype), tokens)


def split_summary(corpus: Corpus, split: SplitName, data: DataConfig) -> list[str]:
    """What a split holds, a line for each field, and how many documents are too long for `data.sequence_length`."""
    length, num_left_out = data.sequence_length, 0
    if corpus.fields == (TEXT,):
        plans: dict[str, SequencePlan] = {split: split_plan(corpus, split, data)}
    else:
        reader = FieldReader(corpus, split, dict.fromkeys(corpus.fields, length))
        plans = {f"{split} {field}": plan for field, plan in reader.plans.items()}
        num_left_out = len(reader.left_out)
    lines = []
    for field, (title, plan) in zip(corpus.fields, plans.items(), strict=True):
        counts = corpus.manifest.split(split, field)
        lines.append(
            f"{title}: {counts.documents:,} documents, {counts.tokens:,} tokens, {plan.num_sequences:,} sequences of"
            f" {length:,} with {plan.padding_share:.2%} padding"
        )
    if num_left_out:
        lines.append(
            f"{split}: {num_left_out:,} documents are longer than data.sequence_length = {length} and in no sequence"
        )
    return lines


def _plans(lengths: Int64s, sequence_lengths: tuple[int, ...]) -> tuple[tuple[SequencePlan, ...], Int64s]:
    """A plan for each track, of lengths [documents, tracks], and the documents that are in none."""
    if len(sequence_lengths) == 1:
        return (plan_sequences(lengths[:, 0], sequence_lengths[0]),), np.zeros(0, np.int64)
    plan = pack_together(lengths, sequence_lengths)
    return plan.tracks, plan.left_out
