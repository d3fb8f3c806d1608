"""What feeding asks of an objective: a stretch of a document in, what a model reads there and is scored on out.

Feeding knows this interface and no objective. An example is a pure function of what is given here, so every worker, and
every training that was resumed, makes the same ones. Ray Data's tasks call it, so nothing here needs torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from reformer_dist.data.tokenizers.tokenizer import Tokenizer

IGNORED_LABEL = -100
"""Label of a position that is not scored."""
HELD_OUT = -1
"""Step of an example that is not trained on; its draws are the same whenever it is scored."""


@dataclass(frozen=True)
class Place:
    """Which example it is, whatever worker makes it: the key of its random draws.

    Attributes:
        seed: `train.seed`.
        step: training step, or HELD_OUT.
        row: row of the step's global batch; of a held-out example, the index of its sequence in the split.
    """

    seed: int
    step: int
    row: int


@dataclass(frozen=True)
class Stretch:
    """Neighbouring positions of one field of a document, which lie in one sequence and on one shard.

    A document of n tokens has n + 2 entries, a boundary, its tokens and a boundary, and n + 1 positions: all entries but
    the last, which is nothing but the label of the one before.

    Attributes:
        entries: [positions + 1], the entries at these positions and the one behind them.
        offset: index in the document of the first position.
        num_positions: positions of the whole document.
        first_position: index in the whole sequence of the first position.
        tokenizer: what made the tokens.
        num_lead: entries behind the document's first boundary that are of `OtherFields.lead` and the boundary behind it.
    """

    entries: NDArray[Any]
    offset: int
    num_positions: int
    first_position: int
    tokenizer: Tokenizer
    num_lead: int = 0

    @property
    def positions(self) -> NDArray[np.int64]:
        """Index in the whole sequence of each position, int64 [positions]."""
        return np.arange(self.first_position, self.first_position + len(self.entries) - 1)


class Rewritten(NamedTuple):
    """What became of a stretch of text.

    Attributes:
        source: [source positions], what an encoder reads, a boundary first.
        target: [target positions + 1], a boundary, what is written, and a boundary; these are then the entries.
    """

    source: NDArray[Any]
    target: NDArray[Any]


class Rewriting(Protocol):
    """Makes a source and a target of each stretch of a text; it is frozen and can be hashed.

    Their lengths follow from the stretch's, so sequences are planned before anything is rewritten.
    """

    def lengths(self, num_tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions of target and source, int64 [stretches, 2], of stretches of so many tokens, each at least one.

        A longer stretch has no shorter ones, and at some length each of both has more than any given number.
        """

    def rewrite(self, tokens: NDArray[Any], tokenizer: Tokenizer, place: Place, position: int) -> Rewritten:
        """A source and a target of the lengths that `lengths` says, the same whenever they are made.

        Args:
            tokens: [tokens], the stretch without boundaries, at least one.
            tokenizer: what made them.
            place: of which example the stretch is part.
            position: index in the whole sequence where its target begins.
        """


class OtherFields(NamedTuple):
    """What is read beside the text, at positions of its own.

    Attributes:
        lead: field that is read before the text of its document, with a boundary between them.
        source: field that an encoder reads; a sequence then holds whole documents alone, and their sources beside it.
        rewriting: makes of the text itself what an encoder reads, and what is written.
    """

    lead: str | None = None
    source: str | None = None
    rewriting: Rewriting | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The fields there are."""
        return tuple(name for name in (self.lead, self.source) if name is not None)

    @property
    def has_source(self) -> bool:
        """Whether an encoder reads something."""
        return self.source is not None or self.rewriting is not None


ALONE = OtherFields()
"""The text is read alone."""


class Examples(Protocol):
    """The part of an objective that feeding calls."""

    @property
    def fields(self) -> tuple[str, ...]:
        """Fields of a record that an example is made of, at the positions of the text."""

    @property
    def others(self) -> OtherFields:
        """What is read at positions of its own."""

    def example(self, fields: Mapping[str, Stretch], place: Place) -> tuple[NDArray[Any], NDArray[Any]]:
        """What a model reads at the positions of a stretch, and the labels there.

        Args:
            fields: the stretch of each field; of a text that is rewritten, a stretch of the target.
            place: which example it is.

        Returns:
            tokens and labels, both [positions] of integers; a label of IGNORED_LABEL is not scored.
        """
