"""How many buckets learn fastest: the duplication task with one hash round, by mode and tokens in a bucket.

In: a size. Out: a table and a CSV file of the steps that learning took.

One round is where the choice tells most. Too few buckets, and a window ends before the key that is looked for; too many,
and query and key seldom share one.
"""

import csv
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from reformer_dist.benchmarks.learning.duplication import prepared, train
from reformer_dist.benchmarks.learning.duplication_report import MODES, Point, steps_to_learn
from reformer_dist.benchmarks.learning.duplication_task import SIZES, Size, keys_seen

SHARES = (2.0, 1.0, 0.5, 0.25)
"""Tokens in a bucket as shares of the keys that a query sees at most."""


def run(size_name: Literal["small", "paper"], output: Path) -> None:
    """Print the table and write buckets-SIZE.csv into `output`."""
    size = SIZES[size_name]
    print(f"Duplication, one round, length {size.length}, up to {size.keys} keys; {len(size.seeds)} seed(s)")
    print("mode     tokens a bucket  buckets  keys seen   median step of 50 %   of 90 %   accuracy at the end, %")
    rows = []
    with prepared(size) as folder:
        for mode in MODES:
            for share in SHARES:
                rows.append(_row(folder, size, mode, share))
                name, tokens, num_buckets, seen, half, most, end = rows[-1]
                print(f"{name:<9}{tokens:>15}{num_buckets:>9}{seen:>11.1f}{half:>22}{most:>10}{end * 100:>25.1f}")
    output.mkdir(parents=True, exist_ok=True)
    path = output / f"buckets-{size_name}.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("mode", "tokens_a_bucket", "num_buckets", "keys_seen", "step_half", "step_most", "accuracy"))
        writer.writerows(rows)
    print(path)


def _row(folder: Path, size: Size, mode: str, share: float) -> tuple[Any, ...]:
    """A row of the table, from a training with each seed."""
    num_buckets = round(size.length / (size.keys * share))
    points = [
        Point(mode, 1, seed, *values)
        for seed in size.seeds
        for values in train(folder, size, mode, 1, seed, num_buckets)[1]
    ]
    half, most = (steps_to_learn(points, mode, 1, level) or "-" for level in (0.5, 0.9))
    end = fmean(point.accuracy for point in points if point.step == size.steps)
    return mode, round(size.keys * share), num_buckets, keys_seen(size, mode, num_buckets), half, most, end
