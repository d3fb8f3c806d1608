"""How all pictures look: colours, sizes, axes, and bars in groups."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLORS = ("#12436d", "#e07b39", "#2a9d6f", "#a23b72", "#7a7a00", "#2f7fb8", "#8c564b", "#555555")
"""Of things side by side, such as runs, layers or values."""
MARKED = "#d1495b"
"""Of what the picture is looked at for."""
GREY = "#666666"
"""Of what others are compared with, and of notes."""
FAINT = "#b5b5b5"
"""Of what counts less."""


def color(index: int) -> str:
    """The colour of one of many things; after the last one they begin anew."""
    return COLORS[index % len(COLORS)]


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches."""
    return Figure(figsize=(width, height), dpi=130, layout="constrained")


def tidy(axes: Axes) -> None:
    """A faint grid, and no frame where there are no numbers."""
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def grouped_bars(axes: Axes, rows: Sequence[str], groups: Mapping[str, Sequence[float | None]]) -> None:
    """Horizontal bars with their values, from the top down.

    Args:
        axes: to draw on.
        rows: what is written beside each row.
        groups: by label, a value for each row, None where there is no bar.
    """
    width = 0.8 / len(groups)
    for index, (label, values) in enumerate(groups.items()):
        shift = (index - (len(groups) - 1) / 2) * width
        bars = [(row + shift, value) for row, value in enumerate(values) if value is not None]
        axes.barh([row for row, _ in bars], [value for _, value in bars], width, color=color(index), label=label)
        for row, value in bars:
            axes.annotate(f"{value:.2f}", (value, row), (3, 0), textcoords="offset points", va="center", fontsize=7)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
