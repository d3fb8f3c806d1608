"""The recall table as text, and its picture.

In: rows of cells and outcomes. Out: of each place the best, text, and a figure.
"""

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure

from reformer_dist.benchmarks.learning.book import Row
from reformer_dist.benchmarks.learning.recall.mqar_training import Cell, Outcome
from reformer_dist.reports.style import GREY, color, new_figure, tidy

RecallRow = Row[Cell, Outcome]


def best(rows: Sequence[RecallRow]) -> list[RecallRow]:
    """Of each place the row with the highest accuracy over the learning rates, in the order of the rows."""
    by_place: dict[tuple[Any, ...], RecallRow] = {}
    for row in rows:
        before = by_place.get(row.cell.place)
        if before is None or row.outcome.accuracy > before.outcome.accuracy:
            by_place[row.cell.place] = row
    return list(by_place.values())


def tables(rows: Sequence[RecallRow]) -> str:
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


def figure(rows: Sequence[RecallRow]) -> Figure:
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


def _values(rows: Sequence[RecallRow], name: str) -> list[Any]:
    return [*dict.fromkeys(getattr(row.cell, name) for row in rows)]


def _settings(rows: Sequence[RecallRow]) -> list[tuple[int, int]]:
    return sorted({(row.cell.length, row.cell.pairs) for row in rows})


def _outcomes(rows: Sequence[RecallRow], recipe: str, variant: str) -> dict[tuple[int, int], list[Outcome]]:
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
