"""Copying: the second half of a document from its first, for documents w SEPARATOR w.

The duplication task of Kitaev et al. 2020, section 5: the first w is random and costs what it costs, so only the second
is scored. See benchmarks/learning/duplication.py, which makes such documents.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from reformer_dist.config.sections.data import TEXT
from reformer_dist.data.feeding.examples import IGNORED_LABEL, Place, Stretch
from reformer_dist.data.preparing.corpus import Corpus
from reformer_dist.data.preparing.manifest import SplitName
from reformer_dist.objectives.prediction import TokenPrediction
from reformer_dist.objectives.unigram import token_counts, unigram_metrics


class Copy(TokenPrediction):
    """Next token, scored only in the second half of the document's tokens and not on its end."""

    name: ClassVar[str] = "copy"
    causal: ClassVar[bool | None] = True

    def unit(self, token: str) -> str:
        """Of the tokens only those of the second half."""
        return f"copied {token}"

    def example(self, fields: Mapping[str, Stretch], place: Place) -> tuple[NDArray[Any], NDArray[Any]]:
        """Each entry, and the one behind it as its label where that is of the second w."""
        stretch = fields[TEXT]
        entries, num_tokens = stretch.entries, stretch.num_positions - 1
        numbers = stretch.offset + np.arange(1, len(entries))  # of the labels; the document's tokens are 1, 2, ...
        scored = (numbers > num_tokens - num_tokens // 2) & (numbers <= num_tokens)
        return entries[:-1], np.where(scored, entries[1:].astype(np.int64), IGNORED_LABEL)

    def baseline(self, corpus: Corpus, split: SplitName) -> dict[str, float]:
        """Of the unigram frequencies of tokens in whole documents."""
        return unigram_metrics(token_counts(corpus, "train"), token_counts(corpus, split))
