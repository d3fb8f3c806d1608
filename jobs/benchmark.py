"""Run a benchmark: print its tables and write CSV files and pictures. See docs/benchmarks.md for what each one shows."""

import argparse
import importlib
from pathlib import Path

SPEED = ("attention", "model", "memory", "scaling")
SUITES = (
    *SPEED,
    "parallel",
    "duplication",
    "duplication_corpus",
    "buckets",
    "ties",
    "chaos",
    "elastic",
    "checkpoint",
    "data",
    "kernels",
)
"""Modules of reformer_dist.benchmarks, each with `run(size, output)`."""


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
        importlib.import_module(f"reformer_dist.benchmarks.{suite}").run(arguments.size, arguments.output)


if __name__ == "__main__":
    main()
