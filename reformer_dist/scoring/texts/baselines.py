"""Texts that can be written without a model: what a model's scores stand beside.

In: the sources of held-out documents, and the targets that training had. Out: a text for each source.
"""

import re
from collections import Counter
from collections.abc import Sequence

NUM_LEADING = 3
_SENTENCE_END = re.compile(
    r"""([.!?…]+["'”»)\]\u2019]*)\s+(?=[^\sa-z])"""
    r"|([\u3002\uff01\uff1f]+[」』”\u2019]*)"  # full stop, exclamation and question mark of Chinese and Japanese
)


def copy(sources: Sequence[str], train_targets: Sequence[str]) -> list[str]:
    """The source itself, as a translation."""
    return [*sources]


def lead_3(sources: Sequence[str], train_targets: Sequence[str]) -> list[str]:
    """The first three sentences of the source, each on a line of its own, as a summary."""
    return ["\n".join(sentences(source)[:NUM_LEADING]) for source in sources]


def most_frequent(sources: Sequence[str], train_targets: Sequence[str]) -> list[str]:
    """The commonest target of training, as an answer; of several the one that came first.

    Raises:
        ValueError: training had none.
    """
    if not train_targets:
        raise ValueError("most_frequent of no answers of training; one works")
    ((answer, _),) = Counter(train_targets).most_common(1)
    return [answer] * len(sources)


def sentences(text: str) -> list[str]:
    """The sentences of a text without the white space between them.

    One ends where a line does, so a document of a paragraph a line, or of a sentence a line, is split there at least.
    Within a line it ends behind ., !, ? or …, with any quotes and brackets that close there, before white space that no
    small letter follows; and behind the marks of Chinese and Japanese. There is no list of abbreviations: "Dr. Smith" is
    split.
    """
    lines = _SENTENCE_END.sub(r"\1\2\n", text).splitlines()
    return [line.strip() for line in lines if line.strip()]
