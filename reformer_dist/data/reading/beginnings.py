"""Texts that begin with another column's, as a document that is read after its question: records in, joined records out."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from reformer_dist.data.reading.columns import Wanted
from reformer_dist.data.reading.records import Record, Records


def joined(beginning: Any, rest: Any) -> Any:
    """Two texts with the end of a line between them, bytes if either is."""
    if isinstance(beginning, bytes) or isinstance(rest, bytes):
        return b"\n".join(text if isinstance(text, bytes) else text.encode() for text in (beginning, rest))
    return f"{beginning}\n{rest}"


def with_beginnings(records: Iterable[Record | Records], wanted: Wanted) -> Iterator[Record | Records]:
    """The same records with one content for each field; a column that is a beginning joins the one behind it."""
    if not any(column.is_beginning for column in wanted.columns):
        yield from records
        return
    for each in records:
        if isinstance(each, Records):
            rows = [_joined_row(contents, wanted) for contents in zip(*each.columns, strict=True)]
            each.columns = [list(column) for column in zip(*rows, strict=True)]
        elif not each.problem:
            each.contents = tuple(_joined_row(each.contents, wanted))
        yield each


def _joined_row(contents: Sequence[Any], wanted: Wanted) -> list[Any]:
    row: list[Any] = []
    before: list[Any] = []
    for column, content in zip(wanted.columns, contents, strict=True):
        if column.is_beginning:
            before.append(content)
        else:
            row.append(joined(before.pop(), content) if before else content)
    return row
