"""What a text score is: how near written texts are to references.

In: texts that a model wrote, and for each the texts that it may be. Out: figures from 0 to 100, as papers give them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

References = Sequence[Sequence[str]]
"""The texts that each written text may be; at least one each."""


class Measured(NamedTuple):
    """What a text score found.

    Attributes:
        figures: by name of the metric, from 0 to 100; the score's own name is among them.
        signature: what a paper must say of its settings for the figures to be comparable; empty where there is none.
    """

    figures: Mapping[str, float]
    signature: str = ""


@dataclass(frozen=True)
class TextScore:
    """How well texts were written.

    Attributes:
        name: of the metric, such as chrf.
        compute: the score of texts that `score` has checked.
        higher_is_better: whether a larger figure is a better one.
    """

    name: str
    compute: Callable[[Sequence[str], References], Measured]
    higher_is_better: bool = True

    def score(self, hypotheses: Sequence[str], references: References) -> Measured:
        """The figures of written texts.

        Args:
            hypotheses: the written texts.
            references: the references of each, in the same order.

        Raises:
            ValueError: there are no texts, or one of them has no list of references.
        """
        if not hypotheses:
            raise ValueError(f"{self.name} of no texts; one with a reference works")
        if len(hypotheses) != len(references):
            raise ValueError(
                f"{self.name} of {len(hypotheses):,} texts with references for {len(references):,}; as many work"
            )
        if missing := [number for number, some in enumerate(references) if isinstance(some, str) or not some]:
            raise ValueError(f"{self.name}: text {missing[0]:,} has no list of references; a list of one works")
        return self.compute(hypotheses, references)
