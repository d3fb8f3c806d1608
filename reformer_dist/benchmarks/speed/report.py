"""Tables, CSV files and pictures of what cases took.

In: measurements. Out: text, and paths of what was written.
"""

import csv
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from matplotlib.figure import Figure

from reformer_dist.benchmarks.speed.measuring import Measurement
from reformer_dist.reports.style import GREY, color, new_figure, tidy

_MARKERS = "os^Dvx*P"


def table(measurements: Sequence[Measurement], baseline: str) -> str:
    """Lines by length and case; ratios say how many times less than the case `baseline` each took."""
    lines = [
        f"{'tokens':>9}  {'':<34}{'CPU-s':>9}{'seconds':>9}{'peak MiB':>10}{'times faster':>14}{'smaller':>9}  keys"
    ]
    for length in dict.fromkeys(m.length for m in measurements):
        group = [m for m in measurements if m.length == length]
        base = next((m for m in group if m.name == baseline), None)
        for m in group:
            ratios = (
                f"{base.cpu_seconds / m.cpu_seconds:>14.1f}{base.peak_mib / m.peak_mib:>9.1f}" if base else " " * 23
            )
            lines.append(
                f"{length:>9,}  {m.name:<34}{m.cpu_seconds:>9.3f}{m.seconds:>9.3f}{m.peak_mib:>10,.0f}{ratios}  {m.keys}"
            )
    return "\n".join(lines)


def tell(output: Path, name: str, title: str, measurements: Sequence[Measurement], baseline: str) -> None:
    """Print the table, ratios to `baseline`; write NAME.csv and NAME.png into the folder `output` and print their paths."""
    print(f"\n{title}; ratios are to {baseline}")
    print(table(measurements, baseline))
    print(*write(output, name, measurements, title), sep="\n")


Crossover = tuple[float, str]
"""A length to mark in the picture, and what to write there."""


def write(
    output: Path, name: str, measurements: Sequence[Measurement], title: str, crossover: Crossover | None = None
) -> list[Path]:
    """Write NAME.csv and NAME.png into the folder `output`, made if need be; returns their paths."""
    output.mkdir(parents=True, exist_ok=True)
    path, picture = output / f"{name}.csv", output / f"{name}.png"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Measurement)])
        writer.writeheader()
        writer.writerows(asdict(m) for m in measurements)
    figure(measurements, title, crossover).savefig(picture)
    return [path, picture]


def figure(measurements: Sequence[Measurement], title: str, crossover: Crossover | None = None) -> Figure:
    """CPU-seconds and peak memory over length, both axes logarithmic; `crossover` marks a length in the first panel."""
    drawing = new_figure(10.0, 4.2)
    panels = drawing.subplots(1, 2)
    names = list(dict.fromkeys(m.name for m in measurements))
    for axes, field, label in zip(
        panels, ("cpu_seconds", "peak_mib"), ("CPU-seconds", "peak memory, MiB"), strict=True
    ):
        for index, name in enumerate(names):
            points = [(m.length, getattr(m, field)) for m in measurements if m.name == name]
            marker = _MARKERS[index % len(_MARKERS)]
            axes.plot(
                *zip(*points, strict=True), color=color(index), marker=marker, markersize=4, linewidth=1.4, label=name
            )
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        lengths = sorted({m.length for m in measurements})
        axes.set_xticks(lengths, [_short(length) for length in lengths])
        axes.minorticks_off()
        axes.set_xlabel("tokens")
        axes.set_title(label, loc="left", fontsize=10)
        tidy(axes)
    if crossover is not None:
        panels[0].axvline(crossover[0], color=GREY, linewidth=0.9, linestyle="--")
        panels[0].annotate(crossover[1], (crossover[0], 0.03), xycoords=("data", "axes fraction"), fontsize=8)
    panels[0].legend(frameon=False, fontsize=8)
    drawing.suptitle(title, x=0.01, horizontalalignment="left", fontsize=11)
    return drawing


def _short(length: int) -> str:
    return f"{length >> 20}M" if length >= 1 << 20 else f"{length >> 10}K"
