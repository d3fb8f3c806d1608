"""From what a file holds to what a tokenizer takes: the one file that knows all kinds of content."""

from collections.abc import Callable, Sequence
from typing import Any

from reformer_dist.data.reading.columns import Column, Wanted
from reformer_dist.data.reading.kinds.images import image_of
from reformer_dist.data.reading.kinds.text import text_of
from reformer_dist.data.reading.lines import lines_of
from reformer_dist.data.reading.records import Record, group_of
from reformer_dist.data.tokenizers.tokenizer import BadDocument

CONTENTS: dict[str, Callable[[Any, str], Any]] = {"text": text_of, "image": image_of}
"""What makes a kind of content of a column's value and the mode that is asked for. Raises BadDocument."""


def content_of(value: Any, column: Column) -> Any:
    """A column's value as its tokenizer takes it. Raises BadDocument for what is none."""
    return CONTENTS[column.takes.kind](value, column.takes.mode)


def record_of(name: str, values: Sequence[Any], wanted: Wanted, group: Any) -> Record:
    """The record of the values of the wanted columns, or what is wrong with one of them.

    Where lines will be records, each text is the list of its lines, since an entry of a list may hold line ends itself.
    """
    contents = []
    for column, value in zip(wanted.columns, values, strict=True):
        try:
            contents.append(lines_of(value) if wanted.split_lines else content_of(value, column))
        except BadDocument as error:
            return Record(name, problem=f"{column.name}: {error}" if len(wanted.columns) > 1 else str(error))
    return Record(name, tuple(contents), group_of(group))
