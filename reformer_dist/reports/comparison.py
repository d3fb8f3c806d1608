"""Comparing runs on one page: curves, what differs in their configurations, speed, memory and samples.

In: finished or running MLflow runs. Out: one HTML file that needs nothing else, pictures included.
"""

import base64
import html
import io
from collections.abc import Callable, Iterable, Sequence
from statistics import median

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reformer_dist.reports.learning_curve import running_mean
from reformer_dist.reports.style import color, new_figure, tidy
from reformer_dist.tracking.records import Point, RunRecord
from reformer_dist.tracking.trials import CAUGHT, KEYS_SEEN, SCORE, SPEED

TRAIN = "train/bits_per_token"
OWN = ("train.run_name", "tracking.uri")
"""Parameters that differ between any two runs and say nothing."""
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 0.5rem 0 1.5rem }
td, th { padding: 0.25rem 0.8rem; border-bottom: 1px solid #ddd }
th { text-align: left } td { font-variant-numeric: tabular-nums } img { max-width: 100% }
.samples { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)) }
pre { background: #f6f6f4; padding: 0.8rem; white-space: pre-wrap; overflow-wrap: anywhere; font-size: 12px; margin: 0 }
"""


def page(runs: Sequence[RunRecord]) -> str:
    """The page as HTML."""
    names = labels(runs)
    sections = [
        ("Curves", _picture(curves(runs, names))),
        ("Figures", _table(["", *names], figures(runs))),
        ("What differs", _table(["", *names], differences(runs)) or "<p>The configurations are the same.</p>"),
        ("Samples", _samples(runs, names)),
    ]
    body = "".join(f"<h2>{title}</h2>\n{content}\n" for title, content in sections)
    title = f"{len(runs)} runs compared"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style></head>\n'
        f"<body><h1>{title}</h1>\n{body}</body></html>\n"
    )


def labels(runs: Sequence[RunRecord]) -> list[str]:
    """A name for each run: its own, with a piece of its id where two share one."""
    names = [run.name for run in runs]
    return [name if names.count(name) == 1 else f"{name} {run.id[:6]}" for name, run in zip(names, runs, strict=True)]


def differences(runs: Sequence[RunRecord]) -> list[list[str]]:
    """A row for each parameter whose values differ: its name and the values."""
    names = sorted({name for run in runs for name in run.parameters} - set(OWN))
    rows = [[name, *(run.parameters.get(name, "-") for run in runs)] for name in names]
    return [row for row in rows if len(set(row[1:])) > 1]


def figures(runs: Sequence[RunRecord]) -> list[list[str]]:
    """Rows of the table of figures: what it is and each run's value, `-` where a run has none."""
    rows: list[tuple[str, Callable[[RunRecord], str]]] = [
        ("status", lambda run: run.status.lower()),
        ("steps", lambda run: f"{last.step:,}" if (last := _last(run, TRAIN)) else "-"),
        ("training, bits a token", lambda run: f"{last.value:.3f}" if (last := _last(run, TRAIN)) else "-"),
        ("held out, bits a token", lambda run: f"{last.value:.3f}" if (last := _last(run, SCORE)) else "-"),
        ("held out, best", lambda run: _format(min, run.curves.get(SCORE), "{:.3f}")),
        ("tokens/s, median", lambda run: _format(median, run.curves.get(SPEED), "{:,.0f}")),
        ("minutes", lambda run: f"{minutes(run)[-1]:.1f}" if run.curves.get(TRAIN) else "-"),
        ("peak MiB of the largest worker", lambda run: _format(max, _memory(run), "{:,.0f}")),
        ("attention mass caught", lambda run: f"{last.value:.3f}" if (last := _last(run, CAUGHT)) else "-"),
        ("keys that a query sees", lambda run: f"{last.value:.1f}" if (last := _last(run, KEYS_SEEN)) else "-"),
    ]
    return [[name, *map(value, runs)] for name, value in rows]


def minutes(run: RunRecord) -> list[float]:
    """Wall time of each training point since the first."""
    points = run.curves[TRAIN]
    return [(point.milliseconds - points[0].milliseconds) / 60_000 for point in points]


def curves(runs: Sequence[RunRecord], names: Sequence[str]) -> Figure:
    """Bits a token over steps, tokens and wall time: training (its running mean) faintly, held-out documents with dots."""
    figure = new_figure(12.0, 4.2)
    panels = figure.subplots(1, 3, sharey=True)
    for axes, title in zip(panels, ("step", "million tokens", "minutes"), strict=True):
        axes.set_xlabel(title)
        tidy(axes)
    for index, (run, name) in enumerate(zip(runs, names, strict=True)):
        if points := run.curves.get(TRAIN):
            _draw(panels, run, points, name, color(index))
    panels[0].set_ylabel("bits a token")
    if panels[0].lines:
        panels[-1].legend(frameon=False, fontsize=9)
    return figure


def _draw(panels: Sequence[Axes], run: RunRecord, points: Sequence[Point], name: str, hue: str) -> None:
    tokens = float(run.parameters["train.batch_size"]) * float(run.parameters["data.sequence_length"]) / 1e6
    start = points[0].milliseconds
    scales: list[Callable[[Point], float]] = [
        lambda point: point.step,
        lambda point: point.step * tokens,
        lambda point: (point.milliseconds - start) / 60_000,
    ]
    held_out = run.curves.get(SCORE, [])
    for axes, place in zip(panels, scales, strict=True):
        axes.plot([*map(place, points)], running_mean([p.value for p in points]), color=hue, alpha=0.35)
        axes.plot(
            [*map(place, held_out)], [p.value for p in held_out], color=hue, marker="o", markersize=3.5, label=name
        )


def _last(run: RunRecord, name: str) -> Point | None:
    points = run.curves.get(name)
    return points[-1] if points else None


def _memory(run: RunRecord) -> list[Point]:
    return [point for name, points in run.curves.items() if name.startswith("memory/") for point in points]


def _format(choose: Callable[[Iterable[float]], float], points: Sequence[Point] | None, text: str) -> str:
    return text.format(choose([point.value for point in points])) if points else "-"


def _picture(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="bits a token over steps, tokens and minutes" src="data:image/png;base64,{data}">'


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    lines = [_row("th", header), *(_row("td", row) for row in rows)]
    return "<table>\n" + "\n".join(lines) + "\n</table>"


def _row(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def _samples(runs: Sequence[RunRecord], names: Sequence[str]) -> str:
    blocks = [
        f"<div><h3>{html.escape(name)}</h3><pre>{html.escape(run.sample or 'no sample')}</pre></div>"
        for run, name in zip(runs, names, strict=True)
    ]
    return '<div class="samples">' + "".join(blocks) + "</div>"
