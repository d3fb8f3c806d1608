"""Run a benchmark: print its tables and write CSV files and pictures. See docs/benchmarks.md for what each one shows."""

import argparse
import importlib
from functools import partial
from pathlib import Path

from reformer_dist.cli import answer

SPEED = ("attention", "model", "memory", "scaling")
SUITES = {
    **{name: f"speed.{name}" for name in (*SPEED, "decoding", "kernels", "peaks", "optimizer", "keep")},
    **{name: f"learning.{name}" for name in ("duplication", "duplication_peers", "duplication_corpus", "buckets")},
    **{name: f"learning.{name}" for name in ("ties", "compressors")},
    **{name: f"learning.{name}.suite" for name in ("quality", "listops", "hashing")},
    **{name: f"learning.quality.{name}" for name in ("ablation", "rates")},
    "recall": "learning.recall.mqar",
    "passkey": "learning.recall.passkey",
    **{name: f"reliability.{name}" for name in ("chaos", "elastic", "checkpoint", "overhead")},
    "parallel": "parallel.shards",
    "data": "data.throughput",
}
"""Modules of reformer_dist.benchmarks by suite, each with `run(size, output)`."""
OPTIONS = {
    "text": ("quality", "ablation", "rates", "hashing", "compressors"),
    "seeds": ("quality", "ablation", "rates", "hashing", "duplication_peers"),
    "seconds": ("quality", "ablation", "rates"),
    "only": ("quality", "ablation", "rates", "recall"),
    "lengths": ("quality", "duplication_peers"),
}
"""Options of some suites alone, and which."""


def main() -> None:
    """Run the suites that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--suite", nargs="+", choices=SUITES, default=SPEED, help="what to measure (speed and memory: %(default)s)")
    add("--size", choices=("small", "paper"), default="small", help="minutes, or the size of the documented figures")
    add("--output", type=Path, default=Path("runs/benchmarks"), help="folder (%(default)s)")
    of = {name: f"{', '.join(suites)}: " for name, suites in OPTIONS.items()}
    add("--text", type=Path, help=of["text"] + "a file to learn (the standard library's source)")
    add("--seeds", type=int, nargs="+", help=of["seeds"] + "trainings of each kind (the size's seeds)")
    add("--seconds", type=float, help=of["seconds"] + "CPU-seconds of a training (the size's)")
    add("--only", nargs="+", metavar="NAME", help=of["only"] + "variants or changes by name (all)")
    add("--lengths", type=int, nargs="+", help=of["lengths"] + "tokens of a sequence (the size's)")
    arguments = parser.parse_args()
    given = {name: value for name in OPTIONS if (value := getattr(arguments, name)) is not None}
    for name in given:
        if other := next((suite for suite in arguments.suite if suite not in OPTIONS[name]), None):
            parser.error(f"--{name} does not go with --suite {other}; {', '.join(OPTIONS[name])} take it")
    for suite in arguments.suite:
        module = importlib.import_module(f"reformer_dist.benchmarks.{SUITES[suite]}")
        answer(partial(module.run, arguments.size, arguments.output, **given))


if __name__ == "__main__":
    main()
