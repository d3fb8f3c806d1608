"""Scores of answers: exact match and F1 by the rules of SQuAD v1.1 (Rajpurkar et al. 2016), means over questions.

Two answers are compared in small letters, without punctuation, articles and superfluous white space; of several references
the best one counts. As in the published script, two answers of which nothing is left are an exact match with an F1 of 0.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from statistics import fmean

from reformer_dist.scoring.texts.text_score import Measured, References

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def exact_match(hypotheses: Sequence[str], references: References) -> Measured:
    """Percent of answers that are one of their references."""
    return Measured({"exact_match": _mean_of_best(_is_same, hypotheses, references)})


def f1(hypotheses: Sequence[str], references: References) -> Measured:
    """Harmonic mean of precision and recall of the words of an answer, in percent."""
    return Measured({"f1": _mean_of_best(_f1_of_words, hypotheses, references)})


def words_of(answer: str) -> list[str]:
    """What of an answer is compared."""
    return _ARTICLES.sub(" ", answer.lower().translate(_WITHOUT_PUNCTUATION)).split()


def _mean_of_best(
    score: Callable[[list[str], list[str]], float], hypotheses: Sequence[str], references: References
) -> float:
    pairs = zip(hypotheses, references, strict=True)
    return 100 * fmean(max(score(words_of(text), words_of(one)) for one in some) for text, some in pairs)


def _is_same(answer: list[str], reference: list[str]) -> float:
    return float(answer == reference)


def _f1_of_words(answer: list[str], reference: list[str]) -> float:
    num_shared = (Counter(answer) & Counter(reference)).total()
    return 2 * num_shared / (len(answer) + len(reference)) if num_shared else 0.0
