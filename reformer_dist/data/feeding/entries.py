"""Entries of documents: a split of a prepared corpus in, stretches of any field of any of its documents out."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from reformer_dist.config.sections.data import TEXT
from reformer_dist.data.feeding.examples import OtherFields, Stretch
from reformer_dist.data.preparing.corpus import Corpus
from reformer_dist.data.preparing.manifest import ScopeName


class EntryReader:
    """Reads what `Stretch` calls the entries of a document: a boundary, its tokens and a boundary."""

    def __init__(self, corpus: Corpus, split: ScopeName, others: OtherFields) -> None:
        self._corpus = corpus
        self._split: ScopeName = split
        self._others = others
        self._starts: dict[str, NDArray[np.int64]] = {}
        self._lengths = {name: corpus.document_lengths(split, name) for name in (TEXT, *others.names)}

    def stretch(self, field: str, document: int, offset: int, positions: range) -> Stretch:
        """What a field of a document has from `offset` on, for these positions of a sequence."""
        lead = self._others.lead
        num_lead = 0 if lead is None else int(self._lengths[lead][document]) + 1
        entries = self._read_with_lead(field, document, offset, len(positions) + 1, num_lead)
        size, tokenizer = num_lead + int(self._lengths[TEXT][document]) + 1, self._corpus.tokenizer_of(field)
        return Stretch(entries, offset, size, positions.start, tokenizer, num_lead)

    def read(self, field: str, document: int, first: int, length: int) -> NDArray[Any]:
        """`length` entries from `first` on of a field of a document."""
        if field not in self._starts:
            self._starts[field] = self._corpus.document_starts(self._split, field)
        start = int(self._starts[field][document])
        lengths = self._lengths[field if field in self._others.names else TEXT]
        end = start + int(lengths[document])
        begin = start + first - 1
        tokens = self._corpus.read(max(begin, start), min(begin + length, end), field)
        edges = (int(begin < start), int(begin + length > end))
        boundary = self._corpus.tokenizer_of(field).boundary
        return np.pad(tokens, edges, constant_values=boundary) if any(edges) else tokens

    def _read_with_lead(self, field: str, document: int, first: int, length: int, num_lead: int) -> NDArray[Any]:
        """`length` entries from `first` on, of which the first `num_lead` of a document are of the field that leads it."""
        if first >= num_lead:
            return self.read(field, document, first - num_lead, length)
        assert self._others.lead is not None
        of_lead = self.read(self._others.lead, document, first, min(length, num_lead - first))
        if len(of_lead) == length:
            return of_lead
        rest = self.read(field, document, 0, length - len(of_lead))
        return np.concatenate([of_lead, rest])
