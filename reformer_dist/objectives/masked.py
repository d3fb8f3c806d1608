"""Masked language modelling (Devlin et al. 2019, BERT): some tokens are hidden, and told from both sides.

A token is chosen with probability `masked_share`; of the chosen ones the model reads `masked_hidden` as the mask token,
`masked_random` as a random token and the rest as they are, and it is scored on all of them. Boundaries are never chosen.
The draws are keyed by seed, step, row and position in the sequence: the same tokens are hidden at any number of workers and
shards and after any crash, others in the next epoch. In a held-out sequence always the same ones are.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from reformer_dist.config.sections.data import TEXT
from reformer_dist.data.feeding.examples import IGNORED_LABEL, Place, Stretch
from reformer_dist.data.preparing.corpus import Corpus
from reformer_dist.data.preparing.manifest import SplitName
from reformer_dist.objectives.draws import Use, fractions, integers
from reformer_dist.objectives.prediction import TokenPrediction
from reformer_dist.objectives.unigram import token_counts, unigram_metrics


class Masked(TokenPrediction):
    """The mask is the token behind the tokenizer's vocabulary."""

    name: ClassVar[str] = "masked"
    causal: ClassVar[bool | None] = False

    @property
    def num_extra_tokens(self) -> int:
        """The mask."""
        return 1

    def unit(self, token: str) -> str:
        """Of the tokens only those that were chosen."""
        return f"masked {token}"

    def example(self, fields: Mapping[str, Stretch], place: Place) -> tuple[NDArray[Any], NDArray[Any]]:
        """The entries with some hidden, and these as labels."""
        stretch, settings = fields[TEXT], self.settings
        key = (place.seed, place.step, place.row, stretch.positions)
        entries, tokenizer = stretch.entries[:-1].astype(np.int64), stretch.tokenizer
        chosen = (fractions(*key, Use.IS_SCORED) < settings.masked_share) & (entries != tokenizer.boundary)
        hidden_as = fractions(*key, Use.HIDDEN_AS)
        as_mask = chosen & (hidden_as < settings.masked_hidden)
        as_random = chosen & ~as_mask & (hidden_as < settings.masked_hidden + settings.masked_random)
        tokens = np.where(as_random, integers(tokenizer.vocab_size, *key, Use.RANDOM_TOKEN), entries)
        tokens[as_mask] = tokenizer.vocab_size
        return tokens, np.where(chosen, entries, IGNORED_LABEL)

    def baseline(self, corpus: Corpus, split: SplitName) -> dict[str, float]:
        """Of the unigram frequencies of tokens, without ends, which are never hidden."""
        return unigram_metrics(token_counts(corpus, "train"), token_counts(corpus, split))
