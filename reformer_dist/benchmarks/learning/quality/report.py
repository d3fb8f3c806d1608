"""Tables, CSV files and pictures of finished trainings.

In: tasks and their outcomes, of one corpus. Out: text, and paths of what was written.
"""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reformer_dist.benchmarks.learning.quality.training import Outcome, Task
from reformer_dist.reports.style import GREY, color, new_figure, tidy

Row = tuple[Task, Outcome]
SHORT_SIGHTED = "local"
"""The variant that sees least, with which others are compared by position."""


class Line(NamedTuple):
    """A line of a table: all seeds of a name at a length."""

    length: int
    name: str
    num_seeds: int
    bits: float
    lowest: float
    highest: float
    million_tokens: float
    tokens_per_cpu_second: float
    cpu_seconds: float
    num_parameters: int
    learning_rate_scale: float


def lines(rows: Iterable[Row]) -> list[Line]:
    """Means over the seeds by length and name, both in the order in which they come first."""
    groups: dict[tuple[int, str], list[Row]] = {}
    for task, outcome in rows:
        groups.setdefault((task.length, task.name), []).append((task, outcome))
    found = []
    for (length, name), group in groups.items():
        outcomes = [outcome for _, outcome in group]
        bits = [outcome.bits for outcome in outcomes]
        cpu_seconds = fmean(outcome.cpu_seconds for outcome in outcomes)
        tokens = fmean(outcome.tokens for outcome in outcomes)
        found.append(
            Line(
                length,
                name,
                len(group),
                fmean(bits),
                min(bits),
                max(bits),
                tokens / 1e6,
                tokens / cpu_seconds,
                cpu_seconds,
                outcomes[0].num_parameters,
                group[0][0].scale,
            )
        )
    return found


def table(rows: Sequence[Row], baseline: str) -> str:
    """A text table of one or more lengths; differences are to the name `baseline` at the same length."""
    head = f"{'tokens':>7}  {'':<24}{'bits':>7}{'lowest':>8}{'highest':>8}{'differ':>8}{'seeds':>6}"
    text = [f"{head}{'M tokens':>10}{'a CPU-s':>9}{'weights':>9}{'rate x':>8}"]
    found = lines(rows)
    bases = {line.length: line.bits for line in found if line.name == baseline}
    for line in found:
        difference = f"{line.bits - bases[line.length]:>+8.3f}" if line.length in bases else " " * 8
        text.append(
            f"{line.length:>7,}  {line.name:<24}{line.bits:>7.3f}{line.lowest:>8.3f}{line.highest:>8.3f}{difference}"
            f"{line.num_seeds:>6}{line.million_tokens:>10.2f}{line.tokens_per_cpu_second:>9,.0f}"
            f"{line.num_parameters:>9,}{line.learning_rate_scale:>8g}"
        )
    return "\n".join(text)


def tables(rows: Sequence[Row], title: str) -> str:
    """Bits in the end, and bits by position for each length."""
    text = [f"{title}: held-out bits a byte after {rows[0][0].seconds:g} CPU-s", table(rows, "transformer")]
    for length in _lengths(rows):
        means = position_means(rows, length)
        ends = [end for _, end, _ in next(iter(means.values()))]
        text += ["", f"bits by position, {length:,} tokens; up to", " " * 24 + "".join(f"{end:>8,}" for end in ends)]
        text += [f"{name:<24}" + "".join(f"{bits:>8.3f}" for _, _, bits in found) for name, found in means.items()]
    return "\n".join(text)


def position_means(rows: Sequence[Row], length: int) -> dict[str, list[tuple[int, int, float]]]:
    """For each name (start, end, mean bits over the seeds) of all buckets of positions."""
    groups = {name: [outcome.positions for _, outcome in group] for name, group in _by_name(rows, length).items()}
    return {
        name: [(some[0].start, some[0].end, fmean(each.bits for each in some)) for some in zip(*seeds, strict=True)]
        for name, seeds in groups.items()
    }


def write(output: Path, name: str, rows: Sequence[Row]) -> list[Path]:
    """Write the tables as CSV files and both pictures into the folder `output`, made if need be; returns their paths."""
    paths = [write_table(output, name, rows)]
    curves = ((task.length, task.name, task.seed, *point) for task, outcome in rows for point in outcome.curve)
    header: tuple[str, ...] = ("length", "name", "seed", "cpu_seconds", "tokens", "bits")
    paths.append(_write_csv(output / f"{name}-curves.csv", header, curves))
    positions = ((task.length, task.name, task.seed, *some) for task, outcome in rows for some in outcome.positions)
    header = ("length", "name", "seed", "start", "end", "bits")
    paths.append(_write_csv(output / f"{name}-positions.csv", header, positions))
    for kind, figure in (("curves", curves_figure(rows, name)), ("positions", positions_figure(rows, name))):
        paths.append(output / f"{name}-{kind}.png")
        figure.savefig(paths[-1])
    return paths


def write_table(output: Path, name: str, rows: Sequence[Row]) -> Path:
    """Write the lines of the table as a CSV file; returns its path."""
    output.mkdir(parents=True, exist_ok=True)
    return _write_csv(output / f"{name}.csv", Line._fields, lines(rows))


def curves_figure(rows: Sequence[Row], title: str) -> Figure:
    """Held-out bits over CPU-seconds, and below over tokens, a column for each length: means, and every seed faintly."""
    lengths = sorted(_lengths(rows))
    figure = new_figure(max(6.0, 4.0 * len(lengths)), 7.2)
    panels = figure.subplots(2, len(lengths), sharey=True, squeeze=False)
    for column, length in enumerate(lengths):
        for name, group in _by_name(rows, length).items():
            curves = [outcome.curve for _, outcome in group]
            _draw(panels[0][column], [[(p.cpu_seconds, p.bits) for p in curve] for curve in curves], name, rows)
            _draw(panels[1][column], [[(p.tokens / 1e6, p.bits) for p in curve] for curve in curves], name, rows)
        panels[0][column].set_title(f"sequences of {length:,}", loc="left", fontsize=10)
        panels[0][column].set_xlabel("CPU-seconds")
        panels[1][column].set_xlabel("million tokens")
    for axes in panels.flat:
        tidy(axes)
    for row in panels:
        row[0].set_ylabel("held-out bits a byte")
    panels[0][-1].legend(frameon=False, fontsize=8, loc="upper right")
    figure.suptitle(title, x=0.01, horizontalalignment="left", fontsize=11)
    return figure


def positions_figure(rows: Sequence[Row], title: str) -> Figure:
    """Held-out bits by position in the sequence, a column for each length: means over the seeds.

    Below, what is left after taking away those of SHORT_SIGHTED: some stretches are harder than others, for all alike, and
    a line that falls shows what comes from further away than that one sees.
    """
    lengths = sorted(_lengths(rows))
    figure = new_figure(max(6.0, 4.0 * len(lengths)), 7.2)
    panels = figure.subplots(2, len(lengths), sharex="col", sharey="row", squeeze=False)
    for (top, bottom), length in zip(panels.T, lengths, strict=True):
        means = position_means(rows, length)
        for name, buckets in means.items():
            middles = [(max(start, end / 2) * end) ** 0.5 for start, end, _ in buckets]
            style = {"color": _color(name, rows), "marker": "o", "markersize": 3, "linewidth": 1.4, "label": name}
            top.plot(middles, [bits for _, _, bits in buckets], **style)
            if SHORT_SIGHTED in means:
                gains = [own[2] - other[2] for own, other in zip(buckets, means[SHORT_SIGHTED], strict=True)]
                bottom.plot(middles, gains, **style)
        top.set_title(f"sequences of {length:,}", loc="left", fontsize=10)
        bottom.set_xscale("log", base=2)
        ticks = [end for _, end, _ in buckets][::2]
        bottom.set_xticks(ticks, [f"{tick:,}" for tick in ticks], fontsize=8)
        bottom.set_xlabel("position in the sequence")
        tidy(top)
        tidy(bottom)
    panels[0][0].set_ylabel("held-out bits a byte")
    panels[1][0].set_ylabel(f"the same minus those of {SHORT_SIGHTED}")
    panels[0][-1].legend(frameon=False, fontsize=8, loc="upper right")
    figure.suptitle(title, x=0.01, horizontalalignment="left", fontsize=11)
    return figure


def _draw(axes: Axes, curves: Sequence[Sequence[tuple[float, float]]], name: str, rows: Sequence[Row]) -> None:
    """The mean of curves of one name, which are scored at the same shares of their time, and each of them faintly."""
    shade = _color(name, rows)
    for curve in curves:
        axes.plot(*zip(*curve, strict=True), color=shade, linewidth=0.7, alpha=0.35)
    longest = max(map(len, curves))  # one that ended early, since its loss was not finite, has fewer points
    same = zip(*(curve for curve in curves if len(curve) == longest), strict=True)
    means = [(fmean(x for x, _ in points), fmean(y for _, y in points)) for points in same]
    axes.plot(*zip(*means, strict=True), color=shade, linewidth=1.6, marker="o", markersize=3, label=name)


def _color(name: str, rows: Sequence[Row]) -> str:
    """Grey for what the others are compared with."""
    names = [other for other in dict.fromkeys(task.name for task, _ in rows) if other != "transformer"]
    return color(names.index(name)) if name in names else GREY


def _lengths(rows: Sequence[Row]) -> list[int]:
    return list(dict.fromkeys(task.length for task, _ in rows))


def _by_name(rows: Sequence[Row], length: int) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for task, outcome in rows:
        if task.length == length:
            groups.setdefault(task.name, []).append((task, outcome))
    return groups


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[tuple[Any, ...]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return path
