"""The facts that are planted: an access code, a keeper or the origin of the bricks, of places such as the northern archive.

In: draws. Out: a fact that is asked for, and others that are like it.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

WORDS = {
    "first name": "Agnes Boris Clara Dmitri Elena Frank Greta Hugo Irene Jonas Klara Leon Mirjam Nils Olga Peter Stefan",
    "last name": "Abbott Berg Castel Dorn Evers Falk Grimaldi Hansen Ibsen Jansky Keller Lindqvist Moreau Novak Olsen",
    "town": "Almar Brema Corville Dunburg Elmstad Fenwick Gosmar Harlow Kirby Lorville Montrose Norden Ostrava Pernik"
    " Quimper Rodez Salford Tarbes Upsal Vimmer Wexford Yverdon Zwolle Arras Baden Coburg Delft Evora Faro Graz",
    "side": "northern southern eastern western upper lower inner outer central royal",
    "house": "archive library museum hospital observatory arsenal treasury academy laboratory granary mint theatre",
}
"""No name is a part of another, and filler has none of them."""
_CHOICES = {name: words.split() for name, words in WORDS.items()}
MOST_DISTRACTORS = 20
"""Facts beside the one that is asked for: no more than there are different values for."""
SAME_PLACE = 2
"""Which of them is about the place that is asked for."""


@dataclass(frozen=True)
class Kind:
    """A kind of fact.

    Attributes:
        statement: the sentence, with {place} and {value}.
        question: what asks for the value, with {place}.
        draw: a value.
    """

    statement: str
    question: str
    draw: Callable[[random.Random], str]


@dataclass(frozen=True)
class Fact:
    """What is so of a place."""

    kind: Kind
    place: str
    value: str

    @property
    def statement(self) -> str:
        """The sentence that is planted."""
        return self.kind.statement.format(place=self.place, value=self.value)

    @property
    def question(self) -> str:
        """The sentence that asks for its value."""
        return self.kind.question.format(place=self.place)


def _drawn(draws: random.Random, *names: str) -> str:
    return " ".join(draws.choice(_CHOICES[name]) for name in names)


KINDS = (
    Kind(
        "The access code of the {place} is {value}.",
        "What is the access code of the {place}?",
        lambda draws: f"{draws.randrange(100_000):05}",
    ),
    Kind(
        "The keeper of the {place} is called {value}.",
        "What is the keeper of the {place} called?",
        lambda draws: _drawn(draws, "first name", "last name"),
    ),
    Kind(
        "The bricks of the {place} came from {value}.",
        "Where did the bricks of the {place} come from?",
        lambda draws: _drawn(draws, "town"),
    ),
)


def draw_facts(draws: random.Random, num_distractors: int) -> list[Fact]:
    """The fact that is asked for, then others, no two of one kind about one place or with one value.

    Every other one is of the first one's kind about another place, and one is of another kind about its place: neither kind
    nor place alone leads to the answer.
    """
    facts: list[Fact] = []
    while len(facts) <= num_distractors:
        kind = facts[0].kind if len(facts) % 2 else draws.choice(KINDS)
        place = facts[0].place if len(facts) == SAME_PLACE else _drawn(draws, "side", "house")
        fact = Fact(kind, place, kind.draw(draws))
        if not any((kind, place) == (other.kind, other.place) or fact.value == other.value for other in facts):
            facts.append(fact)
    return facts
