"""What a sweep leaves on its MLflow run: a table, pictures, and the best configuration.

In: the trials, best first. Out: trials.csv, best.yaml, pareto.png, learning_curves.png, hash_health.png and importance.png.
"""

import csv
import io
from collections.abc import Sequence

from reformer_dist import checkpoints
from reformer_dist.config import Config
from reformer_dist.reports import sweep as pictures
from reformer_dist.reports.sweep import OBJECTIVES
from reformer_dist.tracking import runs
from reformer_dist.tracking.trials import CAUGHT, SCORE, Trial
from reformer_dist.tuning.maker import Maker
from reformer_dist.tuning.search import comparable, importance


def keep(config: Config, maker: Maker, trials: Sequence[Trial], run: runs.Run) -> None:
    """Log the artifacts of a sweep whose trials have ended; pictures only where something succeeded."""
    run.log_text("trials.csv", table(trials))
    good = [trial for trial in trials if trial.status in ("finished", "stopped") and SCORE in trial.metrics]
    if not good:
        return
    best = maker.config(good[0])
    named = best.train.model_copy(update={"run_name": f"{config.train.run_name}-best"})
    run.log_text("best.yaml", checkpoints.to_yaml(best.model_copy(update={"train": named})))
    run.log_figure("pareto.png", pictures.pareto(good))
    run.log_figure("learning_curves.png", pictures.learning_curves(good, [run.history(SCORE, t.run_id) for t in good]))
    if any(CAUGHT in trial.metrics for trial in good):
        run.log_figure("hash_health.png", pictures.hash_health(good))
    shares = {name: importance(config.tune, trials, name) for name in OBJECTIVES}
    if any(shares.values()):
        run.log_figure("importance.png", pictures.importances(shares, comparable(trials), trials))


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
