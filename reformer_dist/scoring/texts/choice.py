"""The scores and the baselines of written texts by name."""

from collections.abc import Callable, Mapping, Sequence

from reformer_dist.scoring.texts import answers, baselines, summaries, translations
from reformer_dist.scoring.texts.text_score import TextScore

TEXT_SCORES: Mapping[str, TextScore] = {
    "chrf": TextScore("chrf", translations.chrf),
    "bleu": TextScore("bleu", translations.bleu),
    "rouge_l": TextScore("rouge_l", summaries.rouge),
    "exact_match": TextScore("exact_match", answers.exact_match),
    "f1": TextScore("f1", answers.f1),
}
BASELINES: Mapping[str, Callable[[Sequence[str], Sequence[str]], list[str]]] = {
    "copy": baselines.copy,
    "lead_3": baselines.lead_3,
    "most_frequent": baselines.most_frequent,
}
"""Each writes a text for every source, given the targets of training."""
