"""The trivial baseline of predicting tokens: how often each one occurs in the training documents.

In: how often tokens are scored. Out: what a model that knows nothing else needs, and how often it is right.
"""

import math

import numpy as np
from numpy.typing import NDArray

from reformer_dist.config.sections.data import TEXT
from reformer_dist.data.preparing.corpus import Corpus
from reformer_dist.data.preparing.manifest import SplitName


def token_counts(corpus: Corpus, split: SplitName, field: str = TEXT) -> NDArray[np.float64]:
    """How often each token of a field is in the documents of a split, float64 [vocabulary]; boundaries are in none."""
    return np.array(corpus.manifest.split(split, field).unigram_counts, np.float64)


def end_counts(corpus: Corpus, split: SplitName) -> NDArray[np.float64]:
    """How often each token ends a document of a split, float64 [vocabulary]: the boundary, once each."""
    counts = np.zeros(len(corpus.manifest.split(split).unigram_counts))
    counts[corpus.tokenizer_of(TEXT).boundary] = corpus.manifest.split(split).documents
    return counts


def unigram_metrics(train: NDArray[np.float64], scored: NDArray[np.float64]) -> dict[str, float]:
    """Metrics of add-one unigram frequencies of `train` on labels that occur as often as `scored` says."""
    model = train + 1.0
    bits = float(-(scored * np.log2(model / model.sum())).sum() / scored.sum())
    accuracy = float(scored[np.argmax(model)] / scored.sum())
    return {"loss": bits * math.log(2), "bits_per_token": bits, "accuracy": accuracy}
