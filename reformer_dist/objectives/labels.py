"""A label for each token of a text: secondary structure of a protein, parts of speech, whatever a field of its record says.

The field called labels is aligned with the text: as many tokens, each the label of the one at its place. The model reads the
text and is scored on the labels, causal or from both sides. A third aligned field, `objective.labels_mask`, may say which
tokens are scored.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from reformer_dist.config.sections.data import TEXT
from reformer_dist.data.feeding.examples import IGNORED_LABEL, Place, Stretch
from reformer_dist.data.preparing.corpus import Corpus
from reformer_dist.data.preparing.manifest import SplitName
from reformer_dist.data.tokenizers.tokenizer import BadDocument
from reformer_dist.errors import ConfigError
from reformer_dist.objectives.prediction import TokenPrediction
from reformer_dist.objectives.unigram import token_counts, unigram_metrics

LABELS = "labels"
"""Field of a record."""
SCORED = "1"
"""What the mask has where a token is scored."""


class Labels(TokenPrediction):
    """The label of each token, where it is scored; boundaries have none."""

    name: ClassVar[str] = "labels"
    causal: ClassVar[bool | None] = None
    baseline_name: ClassVar[str] = "label frequencies"
    continues: ClassVar[bool] = False

    @property
    def fields(self) -> tuple[str, ...]:
        """The text, the labels, and the mask if there is one."""
        mask = self.settings.labels_mask
        return (TEXT, LABELS) if mask is None else (TEXT, LABELS, mask)

    @property
    def vocabularies(self) -> tuple[str, ...]:
        """The text, which is read, and the labels."""
        return (TEXT, LABELS)

    def unit(self, token: str) -> str:
        """A label, whatever a token is."""
        return "label"

    def example(self, fields: Mapping[str, Stretch], place: Place) -> tuple[NDArray[Any], NDArray[Any]]:
        """Each entry, and the label of that same entry."""
        text, labels = fields[TEXT], fields[LABELS]
        told = labels.entries[:-1].astype(np.int64)
        scored = text.offset + np.arange(len(told)) > 0  # the first position of a document is its boundary
        if self.settings.labels_unscored:
            scored &= ~np.isin(told, labels.tokenizer.encode(self.settings.labels_unscored))
        if self.settings.labels_mask is not None:
            mask = fields[self.settings.labels_mask]
            scored &= mask.entries[:-1] == mask.tokenizer.encode(SCORED)
        return text.entries[:-1], np.where(scored, told, IGNORED_LABEL)

    def check(self, corpus: Corpus) -> None:
        """Whether the fields have tokens for what the settings say of them.

        Raises:
            ConfigError: `objective.labels_unscored` is not a label a character, or the mask's tokenizer has no 1.
        """
        mask, unscored = self.settings.labels_mask, self.settings.labels_unscored
        if unscored and not _has_tokens(corpus, LABELS, unscored):
            tokenizer = corpus.tokenizer_of(LABELS).name
            raise ConfigError(
                f"objective.labels_unscored = {unscored} is not one token of {tokenizer} a character, which the field"
                f" {LABELS} is made of; leave it out"
            )
        if mask is not None and not _has_tokens(corpus, mask, SCORED):
            tokenizer = corpus.tokenizer_of(mask).name
            raise ConfigError(
                f"objective.labels_mask = {mask}: {tokenizer}, which that field is made of, has no token for {SCORED};"
                f" data.fields.{mask}.tokenizer = bytes works"
            )

    def baseline(self, corpus: Corpus, split: SplitName) -> dict[str, float]:
        """Of the frequencies of scored labels; their accuracy is that of always saying the commonest."""
        return unigram_metrics(self._counts(corpus, "train"), self._counts(corpus, split))

    def _counts(self, corpus: Corpus, split: SplitName) -> NDArray[np.float64]:
        """How often each label is scored in a split, float64 [vocabulary of labels]."""
        mask, unscored = self.settings.labels_mask, self.settings.labels_unscored
        counts = token_counts(corpus, split, LABELS) if mask is None else _counts_under(mask, corpus, split)
        if unscored:
            counts[corpus.tokenizer_of(LABELS).encode(unscored)] = 0
        return counts


def _has_tokens(corpus: Corpus, field: str, characters: str) -> bool:
    """Whether a field's tokenizer has one token for each of some characters."""
    try:
        return len(corpus.tokenizer_of(field).encode(characters)) == len(characters)
    except BadDocument:
        return False


def _counts_under(mask: str, corpus: Corpus, split: SplitName) -> NDArray[np.float64]:
    """How often each label of a split is scored by a mask, which no manifest tells: labels and mask are read."""
    num_labels, scored = corpus.tokenizer_of(LABELS).vocab_size, corpus.tokenizer_of(mask).encode(SCORED)
    counts = np.zeros(num_labels)
    starts, lengths = corpus.document_starts(split), corpus.document_lengths(split)
    for start, stop in zip(starts.tolist(), (starts + lengths).tolist(), strict=True):
        labels = corpus.read(start, stop, LABELS)[corpus.read(start, stop, mask) == scored]
        counts += np.bincount(labels, minlength=num_labels)
    return counts
