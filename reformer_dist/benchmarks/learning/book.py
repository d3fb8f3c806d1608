"""A CSV file of cells and what became of them, so that a long benchmark goes on where it ended.

In: the dataclasses of a cell and of an outcome, whose fields are texts and numbers. Out: rows, each in the file as soon as
it is added.
"""

import csv
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, get_type_hints

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Cell = TypeVar("Cell", bound="DataclassInstance")
Outcome = TypeVar("Outcome", bound="DataclassInstance")


@dataclass(frozen=True)
class Row(Generic[Cell, Outcome]):
    """A cell and what became of it."""

    cell: Cell
    outcome: Outcome


class Book(Generic[Cell, Outcome]):
    """A CSV file of rows, read when it is opened and added to one row at a time."""

    def __init__(self, path: Path, cell: type[Cell], outcome: type[Outcome]) -> None:
        """Open the file, or begin one whose folder is made if need be.

        Raises:
            ValueError: a file of other columns.

        """
        self.path = path
        self.rows: list[Row[Cell, Outcome]] = []
        columns = [field.name for kind in (cell, outcome) for field in fields(kind)]
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            self._write(columns)
            return
        with path.open(newline="", encoding="utf-8") as file:
            header, *lines = csv.reader(file)
        if header != columns:
            raise ValueError(f"{path} has the columns {header}, not {columns}; another --output folder works")
        texts = [dict(zip(header, line, strict=True)) for line in lines]
        self.rows = [Row(cell(**_typed(cell, line)), outcome(**_typed(outcome, line))) for line in texts]

    def add(self, cell: Cell, outcome: Outcome) -> None:
        """Add a row, which is in the file when this returns."""
        self.rows.append(Row(cell, outcome))
        self._write((asdict(cell) | asdict(outcome)).values())

    def has(self, cell: Cell) -> bool:
        """Whether there is a row of this cell."""
        return any(row.cell == cell for row in self.rows)

    def _write(self, values: Iterable[Any]) -> None:
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(values)


def _typed(kind: type[Any], texts: dict[str, str]) -> dict[str, Any]:
    """The fields of a dataclass, made from texts of which some belong to another."""
    return {name: made(texts[name]) for name, made in get_type_hints(kind).items()}
