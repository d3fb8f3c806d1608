"""Next token: each token of a document, and its end, from what is before it."""

from collections.abc import Mapping
from typing import Any, ClassVar

from numpy.typing import NDArray

from reformer_dist.config.sections.data import TEXT
from reformer_dist.data.feeding.examples import Place, Stretch
from reformer_dist.data.preparing.corpus import Corpus
from reformer_dist.data.preparing.manifest import SplitName
from reformer_dist.objectives.prediction import TokenPrediction
from reformer_dist.objectives.unigram import end_counts, token_counts, unigram_metrics


class NextToken(TokenPrediction):
    """A language model's objective. Labels are shifted here, before a sequence is sharded."""

    name: ClassVar[str] = "next_token"
    causal: ClassVar[bool | None] = True

    def example(self, fields: Mapping[str, Stretch], place: Place) -> tuple[NDArray[Any], NDArray[Any]]:
        """Each entry, and the one behind it as its label."""
        entries = fields[TEXT].entries
        return entries[:-1], entries[1:]

    def baseline(self, corpus: Corpus, split: SplitName) -> dict[str, float]:
        """Of the unigram frequencies of tokens and ends."""
        train, scored = (token_counts(corpus, name) + end_counts(corpus, name) for name in ("train", split))
        return unigram_metrics(train, scored)
