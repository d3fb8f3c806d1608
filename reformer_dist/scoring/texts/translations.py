"""Scores of translations: chrF and BLEU of all texts together, by sacrebleu (Post 2018). Nothing else imports sacrebleu.

The import takes a moment, so it is done by the first score.
"""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from reformer_dist.scoring.texts.text_score import Measured, References


def chrf(hypotheses: Sequence[str], references: References) -> Measured:
    """chrF2 (Popovic 2015): n-grams of up to six characters, recall counted twice; for any language and script."""
    from sacrebleu.metrics.chrf import CHRF

    metric = CHRF()
    found = metric.corpus_score(hypotheses, _by_number(references))
    return Measured({"chrf": found.score}, str(metric.get_signature()))


def bleu(hypotheses: Sequence[str], references: References) -> Measured:
    """BLEU (Papineni et al. 2002) in mteval's words (13a), which languages without spaces do not have: use chrF there."""
    from sacrebleu.metrics.bleu import BLEU

    metric = BLEU()
    found = metric.corpus_score(hypotheses, _by_number(references))
    return Measured({"bleu": found.score}, str(metric.get_signature()))


def _by_number(references: References) -> list[Sequence[Any]]:
    """The first reference of every text, the second of every text and so on; None where a text has fewer."""
    return [*zip_longest(*references)]
