"""What a sweep leaves on its MLflow run: a table, pictures, and the best configuration.

In: the trials, best first. Out: trials.csv, pareto.png, importance.png, learning_curves.png and best.yaml.
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reformer_dist import tracking
from reformer_dist.config import Config
from reformer_dist.training import checkpoint
from reformer_dist.tuning.search import importance
from reformer_dist.tuning.trials import CAUGHT, SCORE, Maker, Trial

OBJECTIVES = {"loss": "held-out bits a token", "speed": "tokens/s", "memory": "peak MiB of the largest worker"}
COLORS = ("#12436d", "#e07b39", "#2a9d6f", "#a23b72", "#7a7a00", "#2f7fb8", "#8c564b", "#555555")


def keep(config: Config, maker: Maker, trials: Sequence[Trial], run: tracking.Run) -> None:
    """Log the artifacts of a sweep whose trials have ended; pictures only where something succeeded."""
    run.log_text("trials.csv", table(trials))
    good = [trial for trial in trials if trial.status in ("finished", "stopped") and SCORE in trial.metrics]
    if not good:
        return
    best = maker.config(good[0])
    named = best.train.model_copy(update={"run_name": f"{config.train.run_name}-best"})
    run.log_text("best.yaml", checkpoint.to_yaml(best.model_copy(update={"train": named})))
    run.log_figure("pareto.png", pareto(good))
    curves = {trial.name: tracking.read_history(run.uri, trial.run_id, SCORE) for trial in good}
    run.log_figure("learning_curves.png", learning_curves(curves))
    shares = {name: importance(config.tune, trials, name) for name in OBJECTIVES}
    if any(shares.values()):
        run.log_figure("importance.png", importances(shares))


def table(trials: Sequence[Trial]) -> str:
    """All trials and their last metrics as CSV."""
    fields = list(dict.fromkeys(name for trial in trials for name in trial.values))
    names = sorted({name for trial in trials for name in trial.metrics})
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([*fields, *names, "status", "run_name", "run_id", "problem"])
    for trial in trials:
        cells = [trial.values.get(name, "") for name in fields]
        cells += [trial.metrics.get(name, "") for name in names]
        writer.writerow([*cells, trial.status, trial.run_name, trial.run_id, trial.problem])
    return text.getvalue()


def front(points: Sequence[tuple[float, float]], *, maximize: bool) -> list[int]:
    """Indices of the points (x, loss) that no other one beats in both; x is to be large or small, the loss small."""

    def beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
        better = a[0] >= b[0] if maximize else a[0] <= b[0]
        return better and a[1] <= b[1] and a != b

    return [i for i, point in enumerate(points) if not any(beats(other, point) for other in points)]


def pareto(trials: Sequence[Trial]) -> Figure:
    """Loss over speed, over memory and over the attention mass caught; trials that nothing beats are joined and named."""
    figure = Figure(figsize=(15.0, 4.8), dpi=130, layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    for axes, objective in zip(panels[:2], ("speed", "memory"), strict=True):
        _front(axes, trials, objective)
    caught = [trial for trial in trials if CAUGHT in trial.metrics]
    _scatter(panels[2], caught, [trial.metrics[CAUGHT] for trial in caught])
    panels[2].set_xlabel("share of the attention mass caught")
    panels[0].set_ylabel(OBJECTIVES["loss"])
    for axes in panels:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def learning_curves(curves: Mapping[str, Sequence[tuple[int, float]]]) -> Figure:
    """Held-out bits a token over the steps of every trial, by its name; those with the same end keep their order."""
    figure = Figure(figsize=(9.0, 5.0), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    for index, (name, points) in enumerate(curves.items()):
        if points:
            style = ("-", "--", ":")[index // len(COLORS) % 3]
            color = COLORS[index % len(COLORS)]
            axes.plot(*zip(*points, strict=True), style, color=color, marker="o", markersize=3, label=name)
    axes.set(xlabel="step", ylabel=OBJECTIVES["loss"])
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def importances(shares: Mapping[str, Mapping[str, float]]) -> Figure:
    """How much of each objective's variance each field explains."""
    fields = sorted({name for each in shares.values() for name in each})
    figure = Figure(figsize=(8.0, 1.2 + 0.6 * len(fields)), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(shares)
    for index, (objective, values) in enumerate(shares.items()):
        places = [row + (index - (len(shares) - 1) / 2) * width for row in range(len(fields))]
        lengths = [values.get(name, 0.0) for name in fields]
        axes.barh(places, lengths, width, color=COLORS[index], label=OBJECTIVES[objective])
    axes.set_yticks(range(len(fields)), fields)
    axes.set(xlabel="share of the variance explained (fANOVA)", xlim=(0, 1))
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    return figure


def _front(axes: Axes, trials: Sequence[Trial], objective: str) -> None:
    known = [(trial, x) for trial in trials if (x := trial.objective(objective)) is not None]
    _scatter(axes, [trial for trial, _ in known], [x for _, x in known])
    points = [(x, trial.metrics[SCORE]) for trial, x in known]
    best = sorted(front(points, maximize=objective == "speed"), key=lambda index: points[index])
    axes.plot(*zip(*(points[index] for index in best), strict=True), color="#d1495b", linewidth=1.2, zorder=1)
    for index in best:
        offset = {"xytext": (5, 4), "textcoords": "offset points"}
        axes.annotate(known[index][0].name, points[index], fontsize=7, **offset)  # type: ignore[arg-type]
    axes.set_xlabel(OBJECTIVES[objective])


def _scatter(axes: Axes, trials: Sequence[Trial], places: Sequence[float]) -> None:
    for status, color, label in (("finished", "#12436d", "finished"), ("stopped", "#aaaaaa", "stopped early")):
        chosen = list(_of_status(trials, places, status))
        if chosen:
            xs, ys = zip(*chosen, strict=True)
            axes.scatter(xs, ys, color=color, s=22, label=label, zorder=2)
    if any(trial.status == "stopped" for trial in trials):
        axes.legend(frameon=False, fontsize=8)


def _of_status(trials: Sequence[Trial], places: Sequence[float], status: str) -> Iterator[tuple[float, float]]:
    for trial, place in zip(trials, places, strict=True):
        if trial.status == status:
            yield place, trial.metrics[SCORE]
