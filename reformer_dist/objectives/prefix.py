"""A text behind a control prefix: genre, style, a title, whatever a field of its record says (Keskar et al. 2019, CTRL).

A document is read as boundary, prefix, boundary, text, boundary. Only the text and its end are scored. What follows a prefix
is generated with `generation.prefix`.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from reformer_dist.config.sections.data import TEXT
from reformer_dist.data.feeding.examples import IGNORED_LABEL, OtherFields, Place, Stretch
from reformer_dist.data.preparing.corpus import Corpus
from reformer_dist.data.preparing.manifest import SplitName
from reformer_dist.objectives.prediction import TokenPrediction
from reformer_dist.objectives.unigram import end_counts, token_counts, unigram_metrics

PREFIX = "prefix"
"""Field of a record."""


class Prefix(TokenPrediction):
    """Next token, behind a field that is not scored."""

    name: ClassVar[str] = "prefix"
    causal: ClassVar[bool | None] = True

    @property
    def others(self) -> OtherFields:
        """The prefix leads the text."""
        return OtherFields(lead=PREFIX)

    def example(self, fields: Mapping[str, Stretch], place: Place) -> tuple[NDArray[Any], NDArray[Any]]:
        """Each entry, and the one behind it as its label where that is of the text."""
        stretch = fields[TEXT]
        entries = stretch.entries
        numbers = stretch.offset + np.arange(1, len(entries))  # of the labels; the prefix and its end are 1 to num_lead
        return entries[:-1], np.where(numbers > stretch.num_lead, entries[1:].astype(np.int64), IGNORED_LABEL)

    def baseline(self, corpus: Corpus, split: SplitName) -> dict[str, float]:
        """Of the unigram frequencies of tokens and ends of texts."""
        train, scored = (token_counts(corpus, name) + end_counts(corpus, name) for name in ("train", split))
        return unigram_metrics(train, scored)
