"""Sweep hyperparameters: train many choices of tune.space and compare them.

Each trial is a full training, a child of one MLflow run. The table at the end has the best first. --suggest RUN instead
reads a run's hash health and proposes rounds, buckets or window (--uri, --storage and --experiment say where it is).
"""

import argparse
import sys

from rich.console import Console
from rich.table import Table

from reformer_dist.cli import JobFailed, answer, run_job
from reformer_dist.config import Config
from reformer_dist.run_records import find_runs
from reformer_dist.sweeps.suggestion import suggest
from reformer_dist.sweeps.trials import Sweep
from reformer_dist.tracking_place import add_place_options, place_of
from reformer_dist.tuning import sweep


def main(config: Config) -> None:
    """Run the sweep and print its table."""
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)
    result = sweep(config, lambda line: console.print(line, markup=False))
    console.print(_table(result))
    for trial in result.trials:
        if trial.status == "failed":
            console.print(f"{trial.name}: {trial.problem}", markup=False)
    print(f"MLflow run {result.run_id} of {result.tracking_uri}")
    print(f"look at it: {result.url_hint}")
    if not any(trial.status in ("finished", "stopped") for trial in result.trials):
        raise JobFailed("no trial succeeded")


def _table(result: Sweep) -> Table:
    table = Table()
    header, *rows = result.rows()
    for name in header:
        table.add_column(name, justify="right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def read_health(arguments: argparse.Namespace) -> None:
    """Print what the hash health of a run proposes."""
    print(*map(suggest, find_runs(*place_of(arguments), [arguments.suggest])), sep="\n")


if __name__ == "__main__":
    if "--suggest" in sys.argv:
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--suggest", required=True, metavar="RUN", help="MLflow run id, its beginning, or a name")
        add_place_options(parser)
        options = parser.parse_args()
        answer(lambda: read_health(options))
    else:
        run_job(main, __doc__)
