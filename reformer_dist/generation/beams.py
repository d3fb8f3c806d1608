"""Beam search (Wu et al. 2016, section 7): several beginnings of each text side by side, the likeliest ones.

In: a decoder that has a row for each text and has read nothing. Out: the best text of each, as far as the beams reach.

Legend: B rows (beginnings of all texts), V vocabulary, K beams, N rows that go on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from reformer_dist.generation.decoding import Decoder


class Text(NamedTuple):
    """A text or its beginning; the better one is greater."""

    score: float
    """Of a beginning its log probability; of what has ended that, divided by the penalty of its length."""
    tokens: list[int]


class Step(NamedTuple):
    """A beginning made longer."""

    score: float
    row: int
    """Of the decoder, the beginning's."""
    token: int
    text: list[int]
    """The beginning's tokens before it."""


@dataclass
class _Beams:
    """The beginnings of one text, best first, and those that have ended."""

    num_beams: int
    penalty: float
    limit: int
    """Most tokens."""
    beginnings: list[Text] = field(default_factory=lambda: [Text(0.0, [])])
    ended: list[Text] = field(default_factory=list)

    def go_on(self, steps: list[Step], end: int) -> list[Step]:
        """Take the likeliest steps; those that make a beginning longer are returned, as many as there are beams at most.

        None are returned where the search is over.
        """
        taken: list[Step] = []
        for step in sorted(steps, key=lambda each: -each.score)[: 2 * self.num_beams]:
            if step.token == end:
                self._end(Text(step.score, step.text), 1)
            elif len(taken) < self.num_beams:
                taken.append(step)
        self.beginnings = [Text(step.score, [*step.text, step.token]) for step in taken]
        if taken and len(self.beginnings[0].tokens) >= self.limit:
            for text in self.beginnings:
                self._end(text, 0)
            return []
        return [] if self._is_over() else taken

    @property
    def best(self) -> list[int]:
        """Tokens of the best text."""
        return max(self.ended).tokens if self.ended else []

    def _end(self, text: Text, num_ends: int) -> None:
        self.ended.append(Text(text.score / self._length(len(text.tokens) + num_ends), text.tokens))

    def _is_over(self) -> bool:
        """Whether no beginning can become better than the best that have ended, as many as there are beams."""
        if not self.beginnings or len(self.ended) < self.num_beams:
            return not self.beginnings
        # Log probabilities only fall, so a beginning ends at best with its own, and at the longest length.
        most = self.beginnings[0].score / self._length(self.limit + 1)
        return sorted(self.ended, reverse=True)[self.num_beams - 1].score >= most

    def _length(self, num_tokens: int) -> float:
        """What log probabilities are divided by, the end counted (equation 14)."""
        return float(((5 + num_tokens) / 6) ** self.penalty)


def by_beams(
    decoder: Decoder, end: int, num_beams: int, penalty: float, num_symbols: int | None, limits: Sequence[int]
) -> list[list[int]]:
    """The best text of each row.

    Args:
        decoder: with a row for each text.
        end: the token that marks a text's start and end.
        num_beams: beginnings K of each text that are kept.
        penalty: see `Search.length_penalty`.
        num_symbols: tokens from here on are never taken.
        limits: most tokens of each text, at least 1.

    """
    beams = [_Beams(num_beams, penalty, limit) for limit in limits]
    text_of_row = list(range(len(limits)))
    ends_B = torch.full((len(limits),), end, dtype=torch.int64, device=decoder.device)
    logits_BV = decoder.read(ends_B[:, None])[:, 0]
    while True:
        log_BV = logits_BV[:, :num_symbols].double().log_softmax(-1)
        likeliest = log_BV.topk(min(2 * num_beams, log_BV.shape[1]), dim=-1)
        steps: dict[int, list[Step]] = {text: [] for text in text_of_row}
        rows_left = {text: iter(beams[text].beginnings) for text in steps}
        for row, text in enumerate(text_of_row):
            score, tokens = next(rows_left[text])
            for log, token in zip(likeliest.values[row].tolist(), likeliest.indices[row].tolist(), strict=True):
                steps[text].append(Step(score + log, row, token, tokens))
        taken = [(text, step) for text, of_text in steps.items() for step in beams[text].go_on(of_text, end)]
        if not taken:
            return [each.best for each in beams]
        text_of_row = [text for text, _ in taken]
        decoder.take(torch.tensor([step.row for _, step in taken], device=decoder.device))
        logits_BV = decoder.next(torch.tensor([step.token for _, step in taken], device=decoder.device))
