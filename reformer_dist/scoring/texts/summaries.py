"""Scores of summaries: ROUGE (Lin 2004), a mean over documents, by rouge-score. Nothing else imports rouge_score.

The import takes seconds, so it is done by the first score; it needs no files of NLTK's.
"""

from collections.abc import Sequence
from statistics import fmean

from reformer_dist.scoring.texts.text_score import Measured, References

NAMES = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL", "rouge_l_sum": "rougeLsum"}
"""The library's name of each figure."""


def rouge(hypotheses: Sequence[str], references: References) -> Measured:
    """F-measures of shared words, pairs of words and longest common subsequences, of the best reference of each document.

    rouge_l takes a summary as one string of words; rouge_l_sum goes sentence by sentence, each on a line of its own.
    Words are runs of the letters a to z and of digits, their English endings cut off by Porter's stemmer. Other scripts have
    no words here: every figure is 0, and chrF serves.
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer([*NAMES.values()], use_stemmer=True)
    found = [scorer.score_multi(some, text) for text, some in zip(hypotheses, references, strict=True)]
    figures = {name: 100 * fmean(each[theirs].fmeasure for each in found) for name, theirs in NAMES.items()}
    return Measured(figures)
