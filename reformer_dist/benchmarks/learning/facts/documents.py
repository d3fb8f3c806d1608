"""Questions about planted facts: long documents of filler in which a few sentences matter, one of which is asked for.

In: a seed, an index, a length and a depth. Out: a document, a question, and the answer, which the document has exactly once.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from reformer_dist.benchmarks.learning.facts.filler import sentence
from reformer_dist.benchmarks.learning.facts.kinds import MOST_DISTRACTORS, draw_facts

LEAST_DISTRACTORS = 2
"""Facts beside the one that is asked for in the shortest documents."""
SHARE_OF_LINE_ENDS = 1 / 6
"""Probability that a sentence ends its paragraph."""


@dataclass(frozen=True)
class Question:
    """A document and what is asked about it; its fields are those of a record.

    Attributes:
        id: seed and index.
        document: ASCII; sentences, with a space or the end of a line between them.
        question: one sentence.
        answer: as it stands in the document.
        depth: where the fact begins, from 0 (the document's beginning) to 1 (its end), to about a sentence.
        length: characters of the document at most; it has less than a sentence fewer.
    """

    id: str
    document: str
    question: str
    answer: str
    depth: float
    length: int


def make_question(seed: int, index: int, length: int, depth: float | None = None, num_distractors: int = 8) -> Question:
    """The document and question of an index, the same at any time.

    Args:
        seed: of a set of documents.
        index: which one of the set; those of other indices have draws of their own.
        length: characters of the document, which are as many bytes.
        depth: where the fact lies, from 0 to 1; drawn evenly if None.
        num_distractors: facts beside it; in a document without room for them as many as there is room for.

    Raises:
        ValueError: a length without room for LEAST_DISTRACTORS of them, or a depth or number out of range.
    """
    if depth is not None and not 0 <= depth <= 1:
        raise ValueError(f"depth = {depth} must be from 0 to 1; 0.5 works")
    if not 0 <= num_distractors <= MOST_DISTRACTORS:
        raise ValueError(f"num_distractors = {num_distractors} must be from 0 to {MOST_DISTRACTORS}; 8 works")
    draws = random.Random(f"{seed} {index}")  # text is hashed, so neighbouring seeds share nothing
    depth = round(draws.random(), 3) if depth is None else depth
    asked, *others = draw_facts(draws, num_distractors)
    needed = sum(len(fact.statement) + 1 for fact in (asked, *others)) - 1
    while needed > length and len(others) > LEAST_DISTRACTORS:
        needed -= len(others.pop().statement) + 1
    if needed > length:
        raise ValueError(f"length = {length} has no room for {len(others) + 1} facts; {max(512, needed)} works")
    sentences = _filler(draws, length - needed)
    for fact in others:
        sentences.insert(draws.randint(0, len(sentences)), fact.statement)
    sentences.insert(_index_at(sentences, depth), asked.statement)
    return Question(f"{seed}-{index}", _joined(draws, sentences), asked.question, asked.value, depth, length)


def _filler(draws: random.Random, room: int) -> list[str]:
    """Sentences for so many characters, each with one between it and its neighbour, up to the first that does not fit."""
    sentences = []
    while len(drawn := sentence(draws)) < room:
        sentences.append(drawn)
        room -= len(drawn) + 1
    return sentences


def _index_at(sentences: Sequence[str], depth: float) -> int:
    """The place between sentences that is nearest to a depth."""
    starts = [0, *accumulate(len(each) + 1 for each in sentences)]
    return min(range(len(starts)), key=lambda index: abs(starts[index] - depth * starts[-1]))


def _joined(draws: random.Random, sentences: Sequence[str]) -> str:
    """Sentences in paragraphs of six or so."""
    between = ["\n" if draws.random() < SHARE_OF_LINE_ENDS else " " for _ in sentences[1:]]
    return "".join(text for pair in zip(sentences, [*between, ""], strict=True) for text in pair)
