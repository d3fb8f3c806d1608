"""Time and memory of one attention layer from a thousand to a million tokens: ours, exact and RACE.

In: a size. Out: a table, a CSV file and a log-log picture with the length from which ours is faster than exact attention.
"""

import math
from functools import partial
from pathlib import Path
from typing import Literal

from reformer_dist.benchmarks.speed import peers
from reformer_dist.benchmarks.speed import report as speed_report
from reformer_dist.benchmarks.speed.attention import EXACT, our_layer
from reformer_dist.benchmarks.speed.measuring import Case, Measurement, measure

OURS = "ours, window 64"
RACE: dict[str, tuple[int, int, bool]] = {
    "RACE, 4 tables of 16": (4, 4, True),
    "RACE, 2 tables of 4": (2, 2, True),
    "RACE, 4 tables of 16, made twice": (4, 4, False),
}
"""Tables, hyperplanes of each (the paper's most and fewest), and whether what the backward pass reads is kept."""
LENGTHS = {"small": [2**power for power in range(10, 16)], "paper": [2**power for power in range(10, 21)]}
LONGEST_EXACT = {"small": 2**14, "paper": 2**16}
"""Exact attention's time is known beyond these: four times as much for twice the tokens."""
LONGEST_KEPT = 2**18
"""Beyond this, what RACE keeps is more than a machine of 16 GiB has."""


def run(size: Literal["small", "paper"], output: Path) -> None:
    """Print the table and the crossover; write scaling-SIZE.csv and .png into `output`."""
    cases = []
    for length in LENGTHS[size]:
        cases.append(Case(OURS, length, partial(our_layer, mode="window", window=peers.CHUNK)))
        if length <= LONGEST_EXACT[size]:
            cases.append(Case(EXACT, length, peers.exact_layer))
        for name, (num_tables, num_planes, keeps) in RACE.items():
            if length <= LONGEST_KEPT or not keeps:
                make = partial(peers.race_layer, num_tables=num_tables, num_planes=num_planes, keeps=keeps)
                cases.append(Case(name, length, make))
    measurements = measure(cases, turns=1)
    title = "One attention layer, forward and backward"
    print(f"\n{title}; ratios are to {EXACT}")
    print(speed_report.table(measurements, EXACT))
    at = crossover(measurements)
    label = f"as fast at {at:,.0f} tokens" if at else f"faster at every length from {LENGTHS[size][0]:,} on"
    print(f"ours is {label}")
    for path in speed_report.write(output, f"scaling-{size}", measurements, title, (at, label) if at else None):
        print(path)


def crossover(measurements: list[Measurement]) -> float | None:
    """The length at which ours becomes faster for good, on straight lines of the log-log picture; None if it always is."""
    times = {(m.name, m.length): m.cpu_seconds for m in measurements}
    lengths = sorted({length for name, length in times if name == EXACT})
    ahead = [math.log(times[EXACT, length] / times[OURS, length]) for length in lengths]
    for index in range(len(lengths) - 1, 0, -1):
        if ahead[index - 1] <= 0 < ahead[index]:
            share = -ahead[index - 1] / (ahead[index] - ahead[index - 1])
            return lengths[index - 1] * (lengths[index] / lengths[index - 1]) ** share
    return None
