"""The hash health of a run as a picture: why its buckets and rounds do well or badly."""

import re
from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reformer_dist.reports.learning_curve import Points
from reformer_dist.reports.style import color, grouped_bars, new_figure, tidy

LAYER = re.compile(r"hashing/((?:encoder_)?layer_(\d+))/")
"""How the name of a metric of one layer begins."""
OTHERS = {
    "caught": "as it is",
    "caught_one_round_less": "a round less",
    "caught_one_round_more": "a round more",
    "caught_half_the_buckets": "half the buckets",
    "caught_twice_the_buckets": "twice the buckets",
    "caught_half_the_window": "half the window",
    "caught_twice_the_window": "twice the window",
}


def health_picture(curves: Mapping[str, Points]) -> Figure:
    """Over the steps, what each layer's rounds catch and how evenly its buckets fill; at the end, what other settings catch.

    Args:
        curves: the points of every metric of a layer, as `LAYER` knows them; an encoder's layers come last.
    """
    found = {match for name in curves if (match := LAYER.match(name))}
    layers = [
        each for *_, each in sorted({(match[1].startswith("encoder"), int(match[2]), match[1]) for match in found})
    ]
    figure = new_figure(12.0, 4.0)
    caught, occupancy, others = figure.subplots(1, 3, width_ratios=(1, 1, 1.4))
    for axes, title in ((caught, "share of the attention mass caught"), (occupancy, "occupancy of the buckets")):
        axes.set(title=title, xlabel="step", ylim=(0, 1.02))
        tidy(axes)
    for index, layer in enumerate(layers):
        hue, name = color(index), layer.replace("_", " ")
        _draw(caught, curves.get(f"hashing/{layer}/caught", ()), hue, name)
        _draw(occupancy, curves.get(f"hashing/{layer}/occupancy_entropy", ()), hue, f"{name}: entropy")
        _draw(occupancy, curves.get(f"hashing/{layer}/largest_bucket", ()), hue, "largest bucket", "--")
    grouped_bars(others, list(OTHERS.values()), {each.replace("_", " "): _last(curves, each) for each in layers})
    others.set(title="what other settings would catch, at the end", xlim=(0, 1.08))
    for axes in (caught, occupancy, others):
        if axes.get_legend_handles_labels()[0]:  # a single bucket has no occupancy
            axes.legend(frameon=False, fontsize=8)
    return figure


def _draw(axes: Axes, points: Points, hue: str, label: str, style: str = "-") -> None:
    if points:
        axes.plot(*zip(*points, strict=True), style, color=hue, marker="o", markersize=3, label=label)


def _last(curves: Mapping[str, Points], layer: str) -> list[float | None]:
    """What a layer's settings catch at the end, None where that was not measured."""
    found = [curves.get(f"hashing/{layer}/{name}") for name in OTHERS]
    return [points[-1][1] if points else None for points in found]
