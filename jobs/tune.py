"""Sweep hyperparameters: train every combination of tune.space and compare them.

Each trial is a full training, a child of one MLflow run. The table at the end has the best first.
"""

import sys

from rich.console import Console
from rich.table import Table

from reformer_dist.cli import JobFailed, run_job
from reformer_dist.config import Config
from reformer_dist.tuning import SCORE, SPEED, Sweep, Trial, sweep


def main(config: Config) -> None:
    """Run the sweep and print its table."""
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    result = sweep(config, lambda line: console.print(line, markup=False))
    console.print(_table(result))
    for trial in result.trials:
        if trial.problem and trial.config:
            console.print(f"{trial.name}: {trial.problem}", markup=False)
    print(f"MLflow run {result.run_id} of {result.tracking_uri}")
    print(f"look at it: {result.url_hint}")
    if all(trial.problem for trial in result.trials):
        raise JobFailed("no trial succeeded")


def _table(result: Sweep) -> Table:
    table = Table()
    for name in result.trials[0].values:
        table.add_column(name.rpartition(".")[2], justify="right", overflow="fold")
    for name in ("validation bits", "tokens/s", "peak MiB", "MLflow run"):
        table.add_column(name, justify="right")
    for trial in result.trials:
        table.add_row(*map(str, trial.values.values()), *_figures(trial))
    return table


def _figures(trial: Trial) -> tuple[str, str, str, str]:
    if trial.problem:
        return ("failed" if trial.config else "impossible", "", "", "")
    speed = f"{trial.metrics[SPEED]:,.0f}"
    return (f"{trial.metrics[SCORE]:.4f}", speed, f"{trial.peak_memory:,.0f}", trial.run_id[:8])


if __name__ == "__main__":
    run_job(main, __doc__)
