"""The duplication benchmark's tables, CSV files and picture.

In: scores of evaluations and points of learning curves. Out: text, and paths of what was written.
"""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reformer_dist.reports.style import COLORS, GREY, new_figure, tidy

MODES = ("window", "chunked")
TRAINED_WITH = (0, 4, 2, 1)
"""Hash rounds in training, 0 for full attention: the rows of the paper's Table 2."""
LEARNED = 0.9
"""Held-out accuracy from which a model counts as having learnt the task; one round seldom gets to 99 %."""
_COLORS = {0: GREY, 4: COLORS[0], 2: COLORS[5], 1: COLORS[1]}


class Score(NamedTuple):
    """Held-out accuracy of a trained model under some attention. Rounds are 0 for full attention."""

    mode: str
    trained_rounds: int
    evaluated_rounds: int
    seed: int
    accuracy: float


class Point(NamedTuple):
    """A point of a learning curve; the accuracy is held-out, with the attention of training."""

    mode: str
    rounds: int
    seed: int
    step: int
    loss: float
    accuracy: float


def label(rounds: int) -> str:
    """Full, or LSH-4 for four rounds."""
    return f"LSH-{rounds}" if rounds else "Full"


def tables(scores: Sequence[Score], points: Sequence[Point], title: str) -> str:
    """The paper's Table 2 for each mode, and the steps that learning took; means and medians over the seeds."""
    num_seeds = len({score.seed for score in scores})
    lines = [f"Duplication, {title}: accuracy in percent, mean of {num_seeds} seed(s)"]
    columns = list(dict.fromkeys(score.evaluated_rounds for score in scores))
    for mode in MODES:
        lines += ["", f"{mode:<18}" + "".join(f"{'full' if n == 0 else n:>8}" for n in columns)]
        for trained in TRAINED_WITH:
            entries = (
                fmean(s.accuracy for s in scores if s[:3] == (mode, trained, evaluated)) for evaluated in columns
            )
            lines.append(f"trained {label(trained):<10}" + "".join(f"{entry * 100:>8.1f}" for entry in entries))
    lines += ["", f"Steps until {LEARNED:.0%} of held-out symbols are right, median of {num_seeds} seed(s)"]
    lines.append(f"{'':<18}" + "".join(f"{label(rounds):>8}" for rounds in TRAINED_WITH))
    for mode in MODES:
        steps = (steps_to_learn(points, mode, rounds) for rounds in TRAINED_WITH)
        lines.append(f"{mode:<18}" + "".join(f"{'-' if step is None else step:>8}" for step in steps))
    return "\n".join(lines)


def steps_to_learn(points: Iterable[Point], mode: str, rounds: int, level: float = LEARNED) -> int | None:
    """Median over the seeds of the first step with that accuracy; None where the median seed did not reach it."""
    first: dict[int, float] = {}
    for point in points:
        if point.mode == mode and point.rounds == rounds:
            learned = point.step if point.accuracy >= level else float("inf")
            first[point.seed] = min(first.get(point.seed, float("inf")), learned)
    middle = median(first.values())
    return None if middle == float("inf") else round(middle)


def write(output: Path, name: str, scores: Sequence[Score], points: Sequence[Point], title: str) -> list[Path]:
    """Write both CSV files and the picture into the folder `output`, made if need be; returns their paths."""
    output.mkdir(parents=True, exist_ok=True)
    table, curves, picture = output / f"{name}.csv", output / f"{name}-curves.csv", output / f"{name}.png"
    _write_csv(table, Score._fields, scores)
    _write_csv(curves, Point._fields, points)
    curves_figure(points, title).savefig(picture)
    return [table, curves, picture]


def curves_figure(points: Sequence[Point], title: str) -> Figure:
    """Held-out accuracy over steps, a panel for each mode: the median of the seeds, and every seed faintly."""
    figure = new_figure(9.0, 3.8)
    panels = figure.subplots(1, len(MODES), sharey=True, sharex=True)
    for axes, mode in zip(panels, MODES, strict=True):
        for rounds in TRAINED_WITH:
            _draw(axes, [p for p in points if p.mode == mode and p.rounds == rounds], rounds)
        axes.set_title(mode, loc="left", fontweight="bold", fontsize=11)
        axes.set_xlabel("step")
        axes.set_xlim(left=0)
        tidy(axes)
    panels[0].set_ylabel("held-out accuracy, %")
    panels[-1].legend(title="trained with", frameon=False, loc="center right")
    figure.suptitle(f"Duplication, {title}", x=0.01, horizontalalignment="left", fontsize=11)
    return figure


def _draw(axes: Axes, points: Sequence[Point], rounds: int) -> None:
    by_step: dict[int, list[float]] = {}
    by_seed: dict[int, list[tuple[int, float]]] = {}
    for point in points:
        by_step.setdefault(point.step, []).append(point.accuracy * 100)
        by_seed.setdefault(point.seed, []).append((point.step, point.accuracy * 100))
    color = _COLORS[rounds]
    for curve in by_seed.values():
        axes.plot(*zip(*curve, strict=True), color=color, linewidth=0.7, alpha=0.35)
    axes.plot(list(by_step), [median(values) for values in by_step.values()], color=color, label=label(rounds))


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[tuple[Any, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
