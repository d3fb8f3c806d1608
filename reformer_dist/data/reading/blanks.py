"""Records of several fields of which some hold nothing: where it is one that is needed they are bad; where all, none."""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from reformer_dist.data.reading.columns import Wanted
from reformer_dist.data.reading.records import Record, Records


def is_blank(content: Any) -> bool:
    """Whether a text is empty or white space alone; nothing else is."""
    if isinstance(content, bytes):
        content = content.decode("utf-8", "replace")
    return isinstance(content, str) and (not content or content.isspace())


def without_blanks(records: Iterable[Record | Records], wanted: Wanted) -> Iterator[Record | Records]:
    """The same records: those with a blank field that is needed as bad ones, without those whose fields are all blank.

    Where no field is needed, nothing is changed.
    """
    if not any(column.is_needed for column in wanted.columns):
        yield from records
        return
    for each in records:
        if isinstance(each, Records):
            if not any(map(is_blank, chain.from_iterable(each.columns))):
                yield each
            else:
                yield from _checked(each, wanted)
        else:
            yield from _checked([each], wanted)


def _checked(records: Iterable[Record], wanted: Wanted) -> Iterator[Record]:
    for record in records:
        blank = [column for column, content in zip(wanted.columns, record.contents, strict=False) if is_blank(content)]
        if record.problem or not blank:
            yield record
        elif len(blank) < len(wanted.columns):
            wrong = [column.field for column in blank if column.is_needed]
            yield Record(record.name, problem=f"{wrong[0]} is empty or only white space") if wrong else record
