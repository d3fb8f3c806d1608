"""Sweep hyperparameters: train many choices of tune.space and compare them.

Each trial is a full training, a child of one MLflow run. The table at the end has the best first. --suggest RUN instead
reads a run's hash health and proposes rounds, buckets or window (--uri, --storage and --experiment say where it is).
"""

import argparse
import sys

from rich.console import Console

from reformer_dist.cli import answer, run_job
from reformer_dist.config import Config
from reformer_dist.errors import JobFailed
from reformer_dist.planning.preflight import mistakes_before_sweep
from reformer_dist.reports.sweep import table
from reformer_dist.tracking.place import add_place_options, place_of
from reformer_dist.tracking.records import find_runs
from reformer_dist.tuning.runner import sweep
from reformer_dist.tuning.suggestion import suggest


def main(config: Config) -> None:
    """Run the sweep and print its table."""
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)
    result = sweep(config, lambda line: console.print(line, markup=False))
    console.print(table(result))
    for trial in result.trials:
        if trial.status == "failed":
            console.print(f"{trial.name}: {trial.problem}", markup=False)
    print(f"MLflow run {result.run_id} of {result.tracking_uri}")
    print(f"look at it: {result.url_hint}")
    if not any(trial.status in ("finished", "stopped") for trial in result.trials):
        raise JobFailed("no trial succeeded")


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
        run_job(main, __doc__, mistakes_before_sweep)
