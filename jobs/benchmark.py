"""Run a benchmark: print its tables and write CSV files and pictures. See docs/benchmarks.md for what each one shows."""

import argparse
import importlib
from pathlib import Path

SPEED = ("attention", "model", "memory", "scaling")
SUITES = {
    **{name: f"speed.{name}" for name in (*SPEED, "kernels", "peaks", "optimizer")},
    **{
        name: f"learning.{name}"
        for name in ("duplication", "duplication_corpus", "buckets", "ties", "recall", "passkey")
    },
    **{name: f"reliability.{name}" for name in ("chaos", "elastic", "checkpoint")},
    "parallel": "parallel.shards",
    "data": "data.throughput",
}
"""Modules of reformer_dist.benchmarks by suite, each with `run(size, output)`."""


def main() -> None:
    """Run the suites that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--suite", nargs="+", choices=SUITES, default=SPEED, help="what to measure (speed and memory: %(default)s)"
    )
    parser.add_argument(
        "--size", choices=("small", "paper"), default="small", help="minutes, or the size of the documented figures"
    )
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks"), help="folder (%(default)s)")
    arguments = parser.parse_args()
    for suite in arguments.suite:
        importlib.import_module(f"reformer_dist.benchmarks.{SUITES[suite]}").run(arguments.size, arguments.output)


if __name__ == "__main__":
    main()
