"""Whole documents that wait until they are encoded together."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from reformer_dist.data.reading.records import Records
from reformer_dist.data.reading.slices import FileSlice


@dataclass(slots=True)
class WaitingDocuments:
    """Documents that are not yet encoded: lists of equal length.

    Attributes:
        columns: for each field what they hold.
        names: their names.
        keys: what decides their splits.
        pieces: where they are from.
        num_bytes: of what they hold.
    """

    columns: list[list[Any]]
    names: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    pieces: list[FileSlice] = field(default_factory=list)
    num_bytes: int = 0

    def add(self, name: str, contents: Sequence[Any], key: str, piece: FileSlice) -> None:
        """Add one document."""
        for column, content in zip(self.columns, contents, strict=True):
            column.append(content)
            self.num_bytes += len(content) if isinstance(content, str | bytes) else content.nbytes
        self.names.append(name)
        self.keys.append(key)
        self.pieces.append(piece)

    def add_file(self, content: bytes, piece: FileSlice) -> None:
        """Add a file that is one document: what `add` does, in as little time as there can be for a few bytes."""
        name = piece.file.name
        self.columns[0].append(content)
        self.names.append(name)
        self.keys.append(name)
        self.pieces.append(piece)
        self.num_bytes += len(content)

    def add_all(self, records: Records, piece: FileSlice) -> None:
        """Add all documents of some records."""
        names, groups = records.names, records.groups
        for column, contents in zip(self.columns, records.columns, strict=True):
            column += contents
            self.num_bytes += sum(map(len, contents))
        self.names += names
        self.keys += (
            names
            if groups is None
            else [name if group is None else group for name, group in zip(names, groups, strict=True)]
        )
        self.pieces += [piece] * len(names)
