"""The recall table: rows of a CSV file, so that a run goes on where one ended; the table as text, and its picture.

In: cells and their outcomes. Out: a file to which each outcome is added at once, text, and the path of a picture.
"""

import csv
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar, get_type_hints

from matplotlib.figure import Figure

from reformer_dist.benchmarks.learning.recall_training import Cell, Outcome
from reformer_dist.reports.style import GREY, color, new_figure, tidy

Part = TypeVar("Part", Cell, Outcome)


@dataclass(frozen=True)
class Row:
    """A cell and what became of it."""

    cell: Cell
    outcome: Outcome


class Book:
    """A CSV file of rows, read when it is opened and added to one row at a time."""

    def __init__(self, path: Path) -> None:
        """Open the file, or begin one whose folder is made if need be.

        Raises:
            ValueError: a file of other columns.

        """
        self.path = path
        self.rows: list[Row] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            self._write(_COLUMNS)
            return
        with path.open(newline="", encoding="utf-8") as file:
            header, *lines = csv.reader(file)
        if tuple(header) != _COLUMNS:
            raise ValueError(f"{path} has the columns {header}, not those of this suite; another --output folder works")
        self.rows = [_row(dict(zip(header, line, strict=True))) for line in lines]

    def add(self, cell: Cell, outcome: Outcome) -> None:
        """Add a row, which is in the file when this returns."""
        self.rows.append(Row(cell, outcome))
        self._write((asdict(cell) | asdict(outcome)).values())

    def best(self) -> list[Row]:
        """Of each place the row with the highest accuracy over the learning rates, in the order of the file."""
        by_place: dict[tuple[Any, ...], Row] = {}
        for row in self.rows:
            before = by_place.get(row.cell.place)
            if before is None or row.outcome.accuracy > before.outcome.accuracy:
                by_place[row.cell.place] = row
        return list(by_place.values())

    def _write(self, values: Any) -> None:
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(values)


_COLUMNS = tuple(field.name for kind in (Cell, Outcome) for field in fields(kind))


def _row(texts: dict[str, str]) -> Row:
    return Row(_from_texts(Cell, texts), _from_texts(Outcome, texts))


def _from_texts(kind: type[Part], texts: dict[str, str]) -> Part:
    """A dataclass whose fields' types are made from texts; there are more texts than its own."""
    types: dict[str, Any] = get_type_hints(kind)
    return kind(**{name: made(texts[name]) for name, made in types.items()})


def tables(rows: Sequence[Row]) -> str:
    """Text: for each width a table, a line for each recipe and variant, a column for each length and number of pairs."""
    lines: list[str] = []
    for width in _values(rows, "width"):
        of_width = [row for row in rows if row.cell.width == width]
        settings = _settings(of_width)
        heads = "".join(f"{f'{length}, {pairs} pairs':>16}" for length, pairs in settings)
        lines += ["", f"{f'width {width}':<24}{heads}   keys seen; value seen, %"]
        for recipe in _values(of_width, "recipe"):
            for variant in _values(of_width, "variant"):
                found = _outcomes(of_width, recipe, variant)
                entries = (_percent([x.accuracy for x in found.get(key, [])]) for key in settings)
                seen = (_seen(found[key]) for key in settings if key in found)
                lines.append(
                    f"{recipe:<12}{variant:<12}" + "".join(f"{x:>16}" for x in entries) + f"   {', '.join(seen)}"
                )
    return "\n".join(lines)


def figure(rows: Sequence[Row]) -> Figure:
    """Accuracy over length, a panel for each recipe and width, a line for each variant (the mean over the seeds)."""
    panels = [(recipe, width) for width in _values(rows, "width") for recipe in _values(rows, "recipe")]
    drawn = new_figure(4.2 * len(panels) + 0.6, 3.6)
    grid = drawn.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (recipe, width) in zip(grid, panels, strict=True):
        of_width = [row for row in rows if row.cell.width == width]
        lengths = [f"{length}\n{pairs} pairs" for length, pairs in _settings(of_width)]
        for index, variant in enumerate(_values(rows, "variant")):
            found = _outcomes(of_width, recipe, variant)
            points = [(place, found[key]) for place, key in enumerate(_settings(of_width)) if key in found]
            if points:
                heights = [fmean(x.accuracy for x in outcomes) * 100 for _, outcomes in points]
                style = {"color": GREY, "linestyle": "--"} if variant == "full" else {"color": color(index)}
                axes.plot([place for place, _ in points], heights, marker="o", label=variant, **style)
        axes.set_xticks(range(len(lengths)), lengths)
        axes.set_ylim(0, 103)
        axes.set_title(f"{recipe}, width {width}", loc="left", fontweight="bold", fontsize=11)
        tidy(axes)
    grid[0].set_ylabel("held-out queries answered, %")
    grid[-1].legend(frameon=False)
    return drawn


def _values(rows: Sequence[Row], name: str) -> list[Any]:
    return [*dict.fromkeys(getattr(row.cell, name) for row in rows)]


def _settings(rows: Sequence[Row]) -> list[tuple[int, int]]:
    return sorted({(row.cell.length, row.cell.pairs) for row in rows})


def _outcomes(rows: Sequence[Row], recipe: str, variant: str) -> dict[tuple[int, int], list[Outcome]]:
    """Outcomes of all seeds by length and number of pairs."""
    found: dict[tuple[int, int], list[Outcome]] = {}
    for row in rows:
        if (row.cell.recipe, row.cell.variant) == (recipe, variant):
            found.setdefault((row.cell.length, row.cell.pairs), []).append(row.outcome)
    return found


def _percent(shares: Sequence[float]) -> str:
    return f"{fmean(shares):.1%}" if shares else "-"


def _seen(outcomes: Sequence[Outcome]) -> str:
    keys, values = fmean(x.keys_seen for x in outcomes), fmean(x.value_seen for x in outcomes)
    return f"{keys:.1f}" + ("" if math.isnan(values) else f"; {values * 100:.0f}")
