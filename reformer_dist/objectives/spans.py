"""Span corruption (Raffel et al. 2020, T5, section 3.1.4), for an encoder-decoder: spans of a text are taken out and told.

Each stretch of a document, which is all of it where that fits, becomes a pair. The encoder reads a boundary and the text
with a sentinel for each span. The decoder reads a boundary, then each sentinel and the span that it stands for; all of that
and the end are scored. How many tokens and spans are taken out follows from the stretch's length. Where they lie is drawn,
keyed by seed, step, row and position in the sequence: the same spans at any number of workers and shards and after a crash,
others in the next epoch. In a held-out sequence always the same ones are taken out.

Sentinels are the tokens behind the tokenizer's vocabulary, used in order in each stretch. One with more spans begins again
with the first sentinel: so the vocabulary need not grow with the length, neighbours differ, and the order of sentinels,
which is the same on both sides, tells which span is whose.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from reformer_dist.data.feeding.examples import OtherFields, Place, Rewritten
from reformer_dist.data.feeding.packing import Int64s
from reformer_dist.data.preparing.corpus import Corpus
from reformer_dist.data.preparing.manifest import SplitName
from reformer_dist.data.tokenizers.tokenizer import Tokenizer
from reformer_dist.objectives.draws import Use, bits
from reformer_dist.objectives.pairs import Pairs
from reformer_dist.objectives.unigram import end_counts, token_counts, unigram_metrics


@dataclass(frozen=True)
class SpanCorruption:
    """Takes spans out of a text; a `Rewriting`.

    Attributes:
        share: of a stretch's tokens that are taken out.
        mean_length: tokens of a span.
        num_sentinels: different ones.
    """

    share: float
    mean_length: float
    num_sentinels: int

    def numbers(self, num_tokens: Int64s) -> tuple[Int64s, Int64s]:
        """Tokens that are taken out of stretches of so many, and spans: shares rounded, at least one of each.

        At least one token is left where there are two, and there are tokens enough to keep the spans apart.
        """
        least = np.minimum(num_tokens, 1)
        hidden = np.rint(num_tokens * self.share).astype(np.int64)
        hidden = np.clip(hidden, least, np.maximum(num_tokens - 1, least))
        spans = np.rint(hidden / self.mean_length).astype(np.int64)
        return hidden, np.clip(spans, least, num_tokens - hidden + 1)

    def lengths(self, num_tokens: Int64s) -> Int64s:
        """See `Rewriting.lengths`: a boundary and the sentinels with what is taken out, and with what is left."""
        hidden, spans = self.numbers(num_tokens)
        return np.stack([1 + spans + hidden, 1 + spans + num_tokens - hidden], axis=1)

    def rewrite(self, tokens: NDArray[Any], tokenizer: Tokenizer, place: Place, position: int) -> Rewritten:
        """See `Rewriting.rewrite`. Any number of tokens may be before the first span, between two at least one."""
        hidden, spans = (int(number[0]) for number in self.numbers(np.array([len(tokens)])))
        key = (place.seed, place.step, place.row, position)
        lengths = _parts(hidden, spans, *key, Use.SPAN_LENGTHS)
        gaps = _parts(len(tokens) - hidden + 2, spans + 1, *key, Use.SPAN_GAPS)
        gaps[[0, -1]] -= 1  # only at both ends may there be none
        runs = np.zeros(2 * spans + 1, np.int64)
        runs[::2], runs[1::2] = gaps, lengths
        is_hidden = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
        sentinels = tokenizer.vocab_size + np.arange(spans) % self.num_sentinels
        read, written = tokens[~is_hidden].astype(np.int64), tokens[is_hidden].astype(np.int64)
        source = np.insert(read, np.cumsum(gaps[:-1]), sentinels)
        target = np.insert(written, np.cumsum(lengths) - lengths, sentinels)
        boundary = tokenizer.boundary
        return Rewritten(np.pad(source, (1, 0), constant_values=boundary), np.pad(target, 1, constant_values=boundary))


class Spans(Pairs):
    """Pairs that are made of one text."""

    name: ClassVar[str] = "spans"

    @property
    def others(self) -> OtherFields:
        """The text itself, without its spans."""
        return OtherFields(rewriting=self._corruption)

    @property
    def num_extra_tokens(self) -> int:
        """The sentinels."""
        return self.settings.spans_sentinels

    def unit(self, token: str) -> str:
        """What is written of a span, its sentinel with it."""
        return f"span {token}"

    def baseline(self, corpus: Corpus, split: SplitName) -> dict[str, float]:
        """Of the unigram frequencies of tokens, ends and sentinels, which are one here, since counting tells them apart.

        A document is counted as one stretch; where it is cut, there are more ends.
        """
        return unigram_metrics(self._counts(corpus, "train"), self._counts(corpus, split))

    @property
    def _corruption(self) -> SpanCorruption:
        settings = self.settings
        return SpanCorruption(settings.spans_share, settings.spans_length, settings.spans_sentinels)

    def _counts(self, corpus: Corpus, split: SplitName) -> NDArray[np.float64]:
        """How often each token is expected to be written for a split, float64 [vocabulary + 1]; a sentinel is the last."""
        lengths = corpus.document_lengths(split)
        hidden, spans = self._corruption.numbers(lengths)
        tokens = token_counts(corpus, split) * hidden.sum() / max(1, lengths.sum())
        return np.append(tokens + end_counts(corpus, split), float(spans.sum()))


def _parts(total: int, number: int, *key: int) -> Int64s:
    """Lengths of `number` parts of `total`, each at least one; every way to cut is as likely as any other."""
    places = np.argsort(bits(*key, np.arange(total - 1)), kind="stable")[: number - 1]
    return np.diff(np.sort(places) + 1, prepend=0, append=total)
