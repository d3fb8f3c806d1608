"""The passkey suite's tables and heat map.

In: rows of what was asked and found. Out: text and a figure.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from matplotlib.figure import Figure

from reformer_dist.benchmarks.learning.book import Row
from reformer_dist.reports.style import FAINT, GREY, new_figure


@dataclass(frozen=True)
class Asked:
    """Questions of one length and depth to one trained model."""

    model: str
    seed: int
    length: int
    depth: float


@dataclass(frozen=True)
class Found:
    """How many were answered."""

    whole: float
    """Share of the answers that were right as a whole: all symbols of a passkey, or an exact match."""
    part: float
    """Share of their parts that were right: symbols of a passkey, or the F1 of words."""


PasskeyRow = Row[Asked, Found]


def tables(rows: Sequence[PasskeyRow], unit: str = "tokens") -> str:
    """Text: for each model a table of passkeys found in percent, a line for each length, a column for each depth."""
    lines: list[str] = []
    depths = sorted({row.cell.depth for row in rows})
    for model in dict.fromkeys(row.cell.model for row in rows):
        lines += ["", f"{model:<24}" + "".join(f"{f'depth {depth:.0%}':>12}" for depth in depths)]
        for length in _lengths(rows, model):
            shares = (_share(rows, model, length, depth) for depth in depths)
            entries = ("-" if math.isnan(share) else f"{share:.0%}" for share in shares)
            lines.append(f"{length:>16,} {unit:<7}" + "".join(f"{entry:>12}" for entry in entries))
    return "\n".join(lines)


def figure(rows: Sequence[PasskeyRow], trained: int, what: str = "passkey", unit: str = "tokens") -> Figure:
    """A heat map for each model, length from left to right and depth from above; a line ends the lengths of training."""
    models = [*dict.fromkeys(row.cell.model for row in rows)]
    depths = sorted({row.cell.depth for row in rows})
    lengths = sorted({row.cell.length for row in rows})
    drawn = new_figure(max(3.4, 0.6 * len(lengths) + 1.6) * len(models), 3.8)
    panels = drawn.subplots(1, len(models), sharey=True, squeeze=False)[0]
    for axes, model in zip(panels, models, strict=True):
        shares = [[_share(rows, model, length, depth) for length in lengths] for depth in depths]
        image = axes.imshow(shares, vmin=0, vmax=1, cmap="viridis", aspect="auto")
        axes.set_facecolor(FAINT)
        axes.axvline(sum(length <= trained for length in lengths) - 0.5, color=GREY, linestyle="--")
        axes.set_xticks(range(len(lengths)), [f"{length:,}" for length in lengths], rotation=45)
        axes.set_yticks(range(len(depths)), [f"{depth:.0%}" for depth in depths])
        axes.set_title(model, loc="left", fontweight="bold", fontsize=11)
        axes.set_xlabel(unit)
    panels[0].set_ylabel(f"depth of the {what}")
    drawn.colorbar(image, ax=panels.tolist(), label=f"{what}s found", shrink=0.8)
    return drawn


def _lengths(rows: Sequence[PasskeyRow], model: str) -> list[int]:
    return sorted({row.cell.length for row in rows if row.cell.model == model})


def _share(rows: Sequence[PasskeyRow], model: str, length: int, depth: float) -> float:
    """Mean over the seeds; nan where nothing was asked."""
    found = [
        row.outcome.whole for row in rows if (row.cell.model, row.cell.length, row.cell.depth) == (model, length, depth)
    ]
    return fmean(found) if found else math.nan
