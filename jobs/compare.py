"""Compare runs on one HTML page: curves by step, tokens and time, what differs, speed, memory and samples.

Runs are MLflow's ids or run names; without any, all of the experiment that --filter leaves.
"""

import argparse
from pathlib import Path

from reformer_dist.cli import answer
from reformer_dist.reports.comparison import page
from reformer_dist.tracking.place import add_place_options, place_of
from reformer_dist.tracking.records import find_runs


def main(arguments: argparse.Namespace) -> None:
    """Write the page and say where it is."""
    runs = find_runs(*place_of(arguments), arguments.runs, arguments.filter)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(page(runs), encoding="utf-8")
    print(f"{len(runs)} runs: {arguments.output}")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", metavar="RUN", help="MLflow run id, the beginning of one, or a run's name")
    parser.add_argument("--filter", default="", help="MLflow's filter, such as \"params.`model.num_hashes` = '4'\"")
    add_place_options(parser)
    parser.add_argument("--output", type=Path, default=Path("runs/compare.html"), help="file to write (%(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    options = parse()
    answer(lambda: main(options))
