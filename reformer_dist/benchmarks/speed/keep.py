"""Time over memory: what a training step takes with each value of `model.keep`.

In: a size. Out: a table, a CSV file and a picture: a point for each level, from nothing kept to all products, and plain
autograd, for models of all LSH and of local and LSH layers. The model is that of `--suite model`.
"""

import csv
from collections.abc import Sequence
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Literal

from matplotlib.figure import Figure

from reformer_dist.benchmarks.speed import peers
from reformer_dist.benchmarks.speed.attention import HUGGING_FACE
from reformer_dist.benchmarks.speed.measuring import Case, Measurement, measure
from reformer_dist.benchmarks.speed.model import ALL_LSH, ALTERNATING, our_model
from reformer_dist.benchmarks.speed.report import table
from reformer_dist.config.sections.model import KEEP_LEVELS
from reformer_dist.reports.style import GREY, color, new_figure, tidy

LENGTH = {"small": 4096, "paper": 16384}
TURNS = {"small": 1, "paper": 3}
MODELS = {"LSH": ALL_LSH, "local and LSH": ALTERNATING}


def run(size: Literal["small", "paper"], output: Path) -> None:
    """Print the table; write keep-SIZE.csv and .png into `output`."""
    found = measure(cases(LENGTH[size]), TURNS[size])
    print(f"\nA step of {LENGTH[size]:,} tokens by what layers keep; ratios are to nothing, all LSH")
    print(table(found, _name("LSH", "nothing")))
    output.mkdir(parents=True, exist_ok=True)
    path, picture = output / f"keep-{size}.csv", output / f"keep-{size}.png"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Measurement)])
        writer.writeheader()
        writer.writerows(asdict(each) for each in found)
    figure(found).savefig(picture)
    print(path, picture, sep="\n")


def cases(length: int) -> list[Case]:
    """Every level, plain autograd, and Hugging Face's model if it is installed."""
    found = []
    for name, layers in MODELS.items():
        for level in KEEP_LEVELS:
            found.append(Case(_name(name, level), length, partial(our_model, layers=layers, keep=(level,))))
        found.append(Case(_name(name, "autograd"), length, partial(our_model, layers=layers, reversible=False)))
    return found + peers.installed([(HUGGING_FACE, "transformers", peers.hugging_face_model)], length)


def figure(measurements: Sequence[Measurement]) -> Figure:
    """CPU-seconds over peak memory, a line for each model through its levels."""
    drawing = new_figure(7.0, 4.2)
    axes = drawing.subplots()
    for index, name in enumerate(MODELS):
        points = {m.name.removeprefix(_name(name, "")): m for m in measurements if m.name.startswith(_name(name, ""))}
        at = [(m.peak_mib, m.cpu_seconds) for m in points.values()]
        axes.plot(*zip(*at, strict=True), color=color(index), marker="o", markersize=4, linewidth=1.4, label=name)
        above = (4, 5) if index == 0 else (-6, -12)  # the first model is the slower one
        for level, place in zip(points, at, strict=True):
            axes.annotate(level, place, textcoords="offset points", xytext=above, fontsize=7, color=GREY)
    axes.set_xlabel("peak memory, MiB")
    axes.set_ylabel("CPU-seconds of a step")
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.legend(frameon=False, fontsize=8)
    tidy(axes)
    return drawing


def _name(model: str, level: str) -> str:
    return f"{model}: {level}"
