"""Run a benchmark: print its tables and write CSV files and pictures. See docs/benchmarks.md for what each one shows."""

import argparse
import importlib
from functools import partial
from pathlib import Path

from reformer_dist.cli import answer

SPEED = ("attention", "model", "memory", "scaling")
SUITES = {
    **{name: f"speed.{name}" for name in (*SPEED, "kernels", "peaks", "optimizer")},
    **{name: f"learning.{name}" for name in ("duplication", "duplication_corpus", "buckets", "ties")},
    "quality": "learning.quality.suite",
    "ablation": "learning.quality.ablation",
    "recall": "learning.recall.mqar",
    "passkey": "learning.recall.passkey",
    "listops": "learning.listops.suite",
    "hashing": "learning.hashing.suite",
    **{name: f"reliability.{name}" for name in ("chaos", "elastic", "checkpoint")},
    "parallel": "parallel.shards",
    "data": "data.throughput",
}
"""Modules of reformer_dist.benchmarks by suite, each with `run(size, output)`."""
TAKE_TEXT = ("quality", "ablation", "hashing")
"""Suites whose `run` takes a text to learn, and seeds."""


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
    of = ", ".join(TAKE_TEXT)
    parser.add_argument("--text", type=Path, help=f"{of}: a file to learn (the standard library's source)")
    parser.add_argument("--seeds", type=int, nargs="+", help=f"{of}: trainings of each kind (the size's seeds)")
    parser.add_argument("--seconds", type=float, help="ablation: CPU-seconds of a training (the size's)")
    parser.add_argument("--only", nargs="+", metavar="CHANGE", help="ablation: changes by name (all)")
    arguments = parser.parse_args()
    if (arguments.seconds or arguments.only) and (other := next((s for s in arguments.suite if s != "ablation"), None)):
        parser.error(f"--seconds and --only do not go with --suite {other}; ablation takes them")
    options = ("text", "seeds", "seconds", "only")
    given = {name: value for name in options if (value := getattr(arguments, name)) is not None}
    if given and (other := next((suite for suite in arguments.suite if suite not in TAKE_TEXT), None)):
        parser.error(f"--{next(iter(given))} does not go with --suite {other}; {of} take it")
    for suite in arguments.suite:
        module = importlib.import_module(f"reformer_dist.benchmarks.{SUITES[suite]}")
        answer(partial(module.run, arguments.size, arguments.output, **given))


if __name__ == "__main__":
    main()
