"""What an evaluation found, as a picture: bits by how much came before, by settings of attention and by source."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reformer_dist.reports.style import GREY, color, grouped_bars, new_figure, tidy

Bars = Mapping[str, float]
"""Bits by name."""


def scores_picture(
    by_context: Mapping[str, Bars], settings: Bars, sources: Bars, baseline: tuple[str, float] | None, unit: str
) -> Figure:
    """Curves over context beside bars of settings and, if there are several, of sources.

    Args:
        by_context: for each setting of attention, bits by bucket of tokens before, in order.
        settings: bits of all by setting.
        sources: bits by source; empty where there is one.
        baseline: what it is of, such as "a unigram model", and its bits.
        unit: what the bits are of, such as "byte".
    """
    panels = [(title, bars) for title, bars in (("by hash rounds", settings), ("by source", sources)) if len(bars) > 1]
    figure = new_figure(6.5 + 4.0 * len(panels), 4.2)
    first, *others = figure.subplots(1, 1 + len(panels), squeeze=False)[0]
    _curves(first, by_context, baseline)
    first.set_ylabel(f"bits per {unit}")
    for axes, (title, bars) in zip(others, panels, strict=True):
        grouped_bars(axes, list(bars), {title: list(bars.values())})
        axes.set_title(title, fontsize=9)
        axes.set_xlabel(f"bits per {unit}")
    return figure


def _curves(axes: Axes, by_context: Mapping[str, Bars], baseline: tuple[str, float] | None) -> None:
    names: Sequence[str] = max(map(list, by_context.values()), key=len)
    for index, (label, bars) in enumerate(by_context.items()):
        places = [names.index(name) for name in bars]
        axes.plot(places, list(bars.values()), marker="o", markersize=4, color=color(index), label=label)
    if baseline is not None:
        axes.axhline(baseline[1], color=GREY, linestyle="--", linewidth=1.0, label=baseline[0])
    axes.set_xticks(range(len(names)), list(names), rotation=45, ha="right", fontsize=7)
    axes.set_xlabel("tokens of its document before it")
    tidy(axes)
    axes.legend(frameon=False, fontsize=8)
