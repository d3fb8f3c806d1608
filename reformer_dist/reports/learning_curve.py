"""The learning curve of a run as a picture."""

import operator
from collections.abc import Sequence
from functools import partial

from matplotlib.figure import Figure

from reformer_dist.reports.style import COLORS, GREY, MARKED, new_figure, tidy

Points = Sequence[tuple[int, float]]
"""(step, value) in order of step."""


def learning_curve(
    train: Points, validation: Points, baseline: tuple[str, float], tokens_per_step: int, unit: str
) -> Figure:
    """Bits a token over steps and tokens, with a baseline as the line to beat.

    Args:
        train: training points; many of them are drawn faintly under their running mean.
        validation: held-out points.
        baseline: what it is of, such as "a unigram model", and its held-out bits.
        tokens_per_step: for the second axis.
        unit: what the bits are of, "byte" or "masked byte".
    """
    figure = new_figure(7.0, 4.2)
    axes = figure.add_subplot()
    baseline_name, baseline_bits = baseline
    steps, values = zip(*train, strict=True)
    axes.plot(steps, values, color=COLORS[0], alpha=0.35, linewidth=0.8)
    axes.plot(steps, running_mean(values), color=COLORS[0], linewidth=1.6, label="training")
    axes.plot(*zip(*validation, strict=True), color=MARKED, marker="o", markersize=4, label="validation")
    axes.axhline(baseline_bits, color=GREY, linestyle="--", linewidth=1.0)
    axes.annotate(
        f"{baseline_name}: {baseline_bits:.2f}",
        (1.0, baseline_bits),
        xycoords=("axes fraction", "data"),
        xytext=(-4, 4),
        textcoords="offset points",
        horizontalalignment="right",
        color=GREY,
        fontsize=8,
    )
    last_step, last = validation[-1]
    axes.annotate(f"{last:.2f}", (last_step, last), xytext=(0, 8), textcoords="offset points", ha="right", color=MARKED)
    axes.set_xlabel("step")
    axes.set_ylabel(f"bits per {unit}")
    axes.set_xlim(left=0)
    scale = tokens_per_step / 1e6
    tokens = axes.secondary_xaxis("top", functions=(partial(operator.mul, scale), partial(operator.mul, 1 / scale)))
    tokens.set_xlabel("million tokens")
    tidy(axes)
    axes.legend(frameon=False)
    return figure


def running_mean(values: Sequence[float]) -> list[float]:
    """Mean of each value and those around it, up to a fortieth of them on either side."""
    reach = len(values) // 40
    windows = [values[max(0, i - reach) : i + reach + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]
