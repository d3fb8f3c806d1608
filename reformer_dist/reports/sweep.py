"""A sweep as people look at it: a table for the terminal, and pictures.

In: its trials, best first; pictures take those that have a loss. Out: a rich table, matplotlib figures.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from rich.table import Table

from reformer_dist.reports.learning_curve import Points
from reformer_dist.reports.style import COLORS, FAINT, GREY, MARKED, grouped_bars, new_figure, tidy
from reformer_dist.tracking.trials import CAUGHT, KEYS_SEEN, SCORE, Sweep, Trial, short, shown

OBJECTIVES = {"loss": "held-out bits a token", "speed": "tokens/s", "memory": "peak MiB of the largest worker"}
MAX_PANELS = 4
NOT_USED = object()
"""Value of a field that does not matter beside a trial's others."""


def table(result: Sweep) -> Table:
    """The trials for the terminal, best first."""
    drawn = Table()
    header, *rows = result.rows()
    for name in header:
        drawn.add_column(name, justify="right", overflow="fold")
    for row in rows:
        drawn.add_row(*row)
    return drawn


def pareto(trials: Sequence[Trial]) -> Figure:
    """Loss over speed and over memory, by the trials' numbers; those that nothing beats are joined, and named beside it."""
    figure = new_figure(13.0, 4.6)
    speed, memory = figure.subplots(1, 2, sharey=True)
    named = {**_front(speed, trials, "speed"), **_front(memory, trials, "memory")}
    speed.set_ylabel(OBJECTIVES["loss"])
    lines = [f"{number:>2}   {name}" for number, name in sorted(named.items())]
    handles = [Line2D([], [], linestyle="", label=line) for line in lines]
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=8, handlelength=0.0)
    return figure


def front(points: Sequence[tuple[float, float]], *, maximize: bool) -> list[int]:
    """Indices of the points (x, loss) that no other one beats in both; x is to be large or small, the loss small."""

    def beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
        better = a[0] >= b[0] if maximize else a[0] <= b[0]
        return better and a[1] <= b[1] and a != b

    return [i for i, point in enumerate(points) if not any(beats(other, point) for other in points)]


def learning_curves(trials: Sequence[Trial], curves: Sequence[Points]) -> Figure:
    """Every trial's held-out bits a token over its steps, once for each field that varies, coloured by its values."""
    fields = _varying(trials)[:MAX_PANELS] or [""]
    figure = new_figure(1.2 + 3.6 * len(fields), 4.2)
    panels: Sequence[Axes] = figure.subplots(1, len(fields), sharey=True, squeeze=False)[0]
    for axes, field in zip(panels, fields, strict=True):
        values = [trial.values.get(field, NOT_USED) for trial in trials]
        colors = _colors(values)
        for value, points in zip(values, curves, strict=True):
            if points:
                style = "--" if value is NOT_USED else "-"
                axes.plot(*zip(*points, strict=True), style, color=colors[_label(value)], linewidth=1.1, alpha=0.8)
        _legend(axes, short(field), colors)
        axes.set_xlabel("step")
        tidy(axes)
    panels[0].set_ylabel(OBJECTIVES["loss"])
    return figure


def hash_health(trials: Sequence[Trial]) -> Figure:
    """Attention mass caught over the keys that a query sees, and loss over the mass caught; coloured by a varying field."""
    known = [trial for trial in trials if CAUGHT in trial.metrics and KEYS_SEEN in trial.metrics]
    figure = new_figure(9.5, 4.2)
    keys, loss = figure.subplots(1, 2)
    field = next(iter(_varying(known)), "")
    values = [trial.values.get(field, NOT_USED) for trial in known]
    colors = _colors(values)
    for trial, value in zip(known, values, strict=True):
        caught = trial.metrics[CAUGHT]
        for axes, place in ((keys, (trial.metrics[KEYS_SEEN], caught)), (loss, (caught, trial.metrics[SCORE]))):
            axes.scatter(*place, s=24, color=colors[_label(value)], zorder=2)
            offset = (4, 3) if trial.number % 2 else (4, -9)  # or neighbours would cover each other's numbers
            axes.annotate(str(trial.number), place, offset, textcoords="offset points", fontsize=7, color=GREY)
    keys.set(xlabel="different keys that a query sees", ylabel="share of the attention mass caught")
    loss.set(xlabel="share of the attention mass caught", ylabel=OBJECTIVES["loss"])
    _legend(keys, short(field), colors)
    for axes in (keys, loss):
        tidy(axes)
    return figure


def importances(
    shares: Mapping[str, Mapping[str, float]], compared: Sequence[Trial], trials: Sequence[Trial]
) -> Figure:
    """How much of each objective's variance each field explains, over the compared trials of a sweep."""
    fields = sorted(
        {name for each in shares.values() for name in each}, key=lambda name: -shares["loss"].get(name, 0.0)
    )
    figure = new_figure(8.0, 1.4 + 0.6 * len(fields))
    axes = figure.add_subplot()
    groups = {OBJECTIVES[name]: [values.get(field, 0.0) for field in fields] for name, values in shares.items()}
    grouped_bars(axes, [short(name) for name in fields], groups)
    same = [
        f"{short(n)} {shown(compared[0].values[n])}"
        for n in compared[0].values
        if n in set(_varying(trials)) - set(fields)
    ]
    which = f" with {', '.join(same)}" if same else ""
    axes.set(xlabel=f"share of the variance explained (fANOVA, {len(compared)} trials{which})", xlim=(0, 1.05))
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def _front(axes: Axes, trials: Sequence[Trial], objective: str) -> dict[int, str]:
    """Draw loss over an objective; numbers and names of the trials that nothing beats."""
    known = [(trial, x) for trial in trials if (x := trial.objective(objective)) is not None]
    points = [(x, trial.metrics[SCORE]) for trial, x in known]
    for status, color, label in (("finished", COLORS[0], "finished"), ("stopped", FAINT, "stopped early")):
        chosen = [point for point, (trial, _) in zip(points, known, strict=True) if trial.status == status]
        if chosen:
            xs, ys = zip(*chosen, strict=True)
            axes.scatter(xs, ys, color=color, s=20, label=label, zorder=2)
    best = sorted(front(points, maximize=objective == "speed"), key=lambda index: points[index])
    places = [points[index] for index in best]
    axes.plot(*zip(*places, strict=True), color=MARKED, linewidth=1.2, zorder=1, label="nothing beats these")
    for index, (place, (trial, _)) in enumerate(zip(points, known, strict=True)):
        color = MARKED if index in best else GREY
        axes.annotate(str(trial.number), place, (4, 4), textcoords="offset points", fontsize=7, color=color)
    axes.set_xlabel(OBJECTIVES[objective])
    axes.locator_params(axis="x", nbins=5)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.legend(frameon=False, fontsize=8)
    tidy(axes)
    return {known[index][0].number: known[index][0].name for index in best}


def _varying(trials: Sequence[Trial]) -> list[str]:
    """Fields that do not have the same value in all trials that choose them; those with more values come last."""
    fields = dict.fromkeys(name for trial in trials for name in trial.values)
    values = {name: {_label(t.values[name]) for t in trials if name in t.values} for name in fields}
    return sorted((name for name in fields if len(values[name]) > 1), key=lambda name: len(values[name]) > len(COLORS))


def _label(value: Any) -> str:
    return "not used" if value is NOT_USED else shown(value)


def _colors(values: Sequence[Any]) -> dict[str, Any]:
    """A colour for each value, in the values' order; where there are too many to tell apart, from dark to light."""
    used = {_label(value): value for value in values if value is not NOT_USED}
    numbers = all(isinstance(value, int | float) for value in used.values())
    names = sorted(used, key=lambda name: used[name]) if numbers else list(used)
    if len(names) <= len(COLORS):
        colors: dict[str, Any] = dict(zip(names, COLORS, strict=False))
    else:
        colors = {name: colormaps["viridis"](index / len(names)) for index, name in enumerate(names)}
    return colors | {_label(NOT_USED): FAINT} if NOT_USED in values else colors


def _legend(axes: Axes, title: str, colors: Mapping[str, Any]) -> None:
    names = list(colors)
    if len(names) > len(COLORS) + 1:
        names = [names[0], names[len(names) // 2], names[-1]]
    handles = [Line2D([], [], color=colors[name], linewidth=2, label=name) for name in names]
    axes.legend(handles=handles, title=title, frameon=False, fontsize=8, title_fontsize=8)
