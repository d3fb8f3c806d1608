"""Records of several fields of which some hold nothing: one such field makes a record bad; where all do, there is none."""

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
    """The same records, those with a blank field as bad ones, and without those whose fields are all blank."""
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
            wrong = [column.field for column in blank if not column.may_be_blank]
            yield Record(record.name, problem=f"{wrong[0]} is empty or only white space") if wrong else record
