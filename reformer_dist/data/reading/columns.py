"""What is wanted of a record: a column for each field, and what each should hold."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from reformer_dist.config.sections.data import SOURCE, TARGET, TEXT, DataConfig
from reformer_dist.data.tokenizers.tokenizer import BadDocument, Content

SHOWN = 40
"""Letters of a column's name that a message shows: what is taken for a header may be a document."""


class Column(NamedTuple):
    """Where a field is in a file.

    Attributes:
        name: of the column, key or array; None where the file's kind decides.
        takes: what it should hold.
        setting: the setting that named it, for messages.
        field: the field that it holds, for messages.
        is_needed: whether a record of several fields is bad where this one is blank; a prefix, say, may be empty.
        is_beginning: whether its text is the beginning of the column behind it.
    """

    name: str | None
    takes: Content
    setting: str = "data.field"
    field: str = TEXT
    is_needed: bool = False
    is_beginning: bool = False

    @property
    def key(self) -> str:
        """Its name, in files that have no column without one."""
        return self.name or "text"


class Wanted(NamedTuple):
    """What a reader looks for in a file.

    Attributes:
        columns: one for each field, and before it one that its text begins with, if it does with any.
        split_by: column whose equal values keep documents in one split.
        split_lines: whether each line of a document is a record of its own.
    """

    columns: tuple[Column, ...]
    split_by: str | None = None
    split_lines: bool = False

    @property
    def keys(self) -> list[str]:
        """Names of all columns that are read, each once, that of `split_by` too."""
        names = [column.key for column in self.columns]
        return list(dict.fromkeys([*names, self.split_by] if self.split_by is not None else names))

    @property
    def settings(self) -> str:
        """The settings that named the columns, for messages."""
        return ", ".join(column.setting for column in self.columns)

    def setting_of(self, key: str) -> str:
        """The setting that named a column, for messages."""
        return next((column.setting for column in self.columns if column.key == key), "data.split_by")


def wanted_of(data: DataConfig, source: int, takes: Mapping[str, Content]) -> Wanted:
    """What is wanted of the files of a source.

    Args:
        data: columns by field.
        source: index of the source.
        takes: the fields that are wanted, and what the tokenizer of each takes.
    """
    columns = []
    for field, content in takes.items():
        is_needed = field in (SOURCE, TEXT, TARGET)
        if (beginning := data.record_fields[field].begins_with) is not None:
            setting = data.setting_of(field, "begins_with")
            columns.append(Column(beginning, content, setting, beginning, is_needed, is_beginning=True))
        columns.append(
            Column(data.column_of(field, source), content, data.setting_of(field, "column"), field, is_needed)
        )
    return Wanted(tuple(columns), data.split_by, data.split_lines)


def check_columns(names: Sequence[str], wanted: Wanted) -> None:
    """Raises BadDocument for a table without a wanted column, or with two of its name."""
    for column in wanted.keys:
        if names.count(column) != 1:
            shown = ", ".join(name[:SHOWN] for name in names)
            has = f"has {names.count(column)} columns" if column in names else "has no column"
            raise BadDocument(f"it {has} {column} ({wanted.setting_of(column)}); its columns: {shown}")
