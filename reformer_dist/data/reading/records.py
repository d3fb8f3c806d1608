"""Records: what a reader takes from a file, one or many at a time."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Any


class NotText(Exception):
    """A file that a folder holds but that is no text."""


@dataclass(slots=True)
class Record:
    """One document, or one piece of one.

    Attributes:
        name: the document's name.
        contents: what each wanted column holds: text (bytes or str), a list of lines of text, or an image's levels.
        group: what decides its split, None for its name.
        problem: why there are no contents.
        continues: whether it goes on with the document of the record before it.
    """

    name: str
    contents: tuple[Any, ...] = ()
    group: str | None = None
    problem: str = ""
    continues: bool = False


@dataclass(slots=True)
class Records:
    """Many whole documents of one file, none of which has a problem yet.

    Attributes:
        names: the documents' names.
        columns: for each wanted column the text that each document has in it.
        groups: what decides the split of each, None for its name; None altogether where all are None.
    """

    names: list[str]
    columns: list[list[Any]]
    groups: list[str | None] | None = None

    def __iter__(self) -> Iterator[Record]:
        for name, *contents, group in zip(self.names, *self.columns, self.groups or repeat(None), strict=False):
            yield Record(name, tuple(contents), group)


def one_by_one(records: Iterable[Record | Records]) -> Iterator[Record]:
    """The same documents, each by itself."""
    for record in records:
        yield from record if isinstance(record, Records) else [record]


def group_of(value: Any) -> str | None:
    """The group that a value of `data.split_by`'s column means."""
    return None if value is None else str(value)
