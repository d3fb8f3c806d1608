"""The hash health of a run as a picture: why its buckets and rounds do well or badly."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reformer_dist.reports.learning_curve import Points

PREFIX = "hashing/layer_"
OTHERS = {
    "caught": "as it is",
    "caught_one_round_less": "a round less",
    "caught_one_round_more": "a round more",
    "caught_half_the_buckets": "half the buckets",
    "caught_twice_the_buckets": "twice the buckets",
    "caught_half_the_window": "half the window",
    "caught_twice_the_window": "twice the window",
}
COLORS = ("#12436d", "#e07b39", "#2a9d6f", "#a23b72", "#7a7a00", "#2f7fb8", "#8c564b", "#555555")


def health_picture(curves: Mapping[str, Points]) -> Figure:
    """Over the steps, what each layer's rounds catch and how evenly its buckets fill; at the end, what other settings catch.

    Args:
        curves: the points of every metric whose name begins with "hashing/layer_".
    """
    layers = sorted({int(name.removeprefix(PREFIX).split("/")[0]) for name in curves})
    figure = Figure(figsize=(12.0, 4.0), dpi=130, layout="constrained")
    caught, occupancy, others = figure.subplots(1, 3, width_ratios=(1, 1, 1.4))
    for axes, title in ((caught, "share of the attention mass caught"), (occupancy, "occupancy of the buckets")):
        axes.set(title=title, xlabel="step", ylim=(0, 1.02))
        axes.grid(alpha=0.25)
    for index, layer in enumerate(layers):
        color = COLORS[index % len(COLORS)]
        _draw(caught, curves.get(f"{PREFIX}{layer}/caught", ()), color, f"layer {layer}")
        _draw(occupancy, curves.get(f"{PREFIX}{layer}/occupancy_entropy", ()), color, f"layer {layer}: entropy")
        _draw(occupancy, curves.get(f"{PREFIX}{layer}/largest_bucket", ()), color, "largest bucket", "--")
    _bars(others, curves, layers)
    for axes in (caught, occupancy, others):
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    return figure


def _draw(axes: Axes, points: Points, color: str, label: str, style: str = "-") -> None:
    if points:
        axes.plot(*zip(*points, strict=True), style, color=color, marker="o", markersize=3, label=label)


def _bars(axes: Axes, curves: Mapping[str, Points], layers: Sequence[int]) -> None:
    width = 0.8 / len(layers)
    for index, layer in enumerate(layers):
        last = {name: points[-1][1] for name in OTHERS if (points := curves.get(f"{PREFIX}{layer}/{name}"))}
        places = [row + (index - (len(layers) - 1) / 2) * width for row, name in enumerate(OTHERS) if name in last]
        axes.barh(places, list(last.values()), width, color=COLORS[index % len(COLORS)], label=f"layer {layer}")
        for place, value in zip(places, last.values(), strict=True):
            axes.annotate(f"{value:.2f}", (value, place), (3, 0), textcoords="offset points", va="center", fontsize=7)
    axes.set_yticks(range(len(OTHERS)), list(OTHERS.values()))
    axes.set(title="what other settings would catch, at the end", xlim=(0, 1.08))
    axes.invert_yaxis()
