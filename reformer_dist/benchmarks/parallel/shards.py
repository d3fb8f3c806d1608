"""A sequence over several workers: how much faster, how much smaller, how much longer.

In: a size. Out: tables, CSV files and a picture of strong scaling (the same sequence on more workers), weak scaling (twice
the sequence on twice the workers), peak memory of a worker, and the longest sequence that fits a given memory.

Workers are processes of this machine with one thread each, which talk by gloo. Times are medians of steps taken in turns by
one worker and by two, so that a machine that drifts drifts for all. Two workers share the way to the machine's memory: what
that alone costs is shown by two that know nothing of each other, each with a sequence of its own ("apart"). Memory is of
fresh processes, one for every figure.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

from reformer_dist.benchmarks.parallel import report as parallel_report
from reformer_dist.benchmarks.parallel.figures import Memory, Time
from reformer_dist.benchmarks.parallel.processes import Processes
from reformer_dist.benchmarks.parallel.worker import Step, start_workers
from reformer_dist.config import Config, load_config

EXCHANGES = ("heads", "buckets")
NONE, APART = "none", "apart"
SHORT = 256
"""Tokens of the step that loads code."""


@dataclass(frozen=True)
class Size:
    """How much to measure."""

    widths: tuple[int, ...]
    """Of the models whose steps are timed."""
    length: int
    """Tokens of one worker's timed step."""
    turns: int
    """Timed steps of each case."""
    memory_lengths: tuple[int, int]
    """Tokens of the steps whose memory is measured."""
    memory_workers: tuple[int, ...] = (1, 2, 4)


SIZES = {"small": Size((512,), 1024, 3, (4096, 8192)), "paper": Size((512, 1024), 8192, 3, (65536, 131072))}
"""The wider model of `paper` is as wide as the Reformer paper's."""
MODEL: dict[str, Any] = {"num_heads": 8, "layers": "local,lsh,local,lsh"}
"""Twice as many heads as the library's default, which is made for a laptop; four hash rounds as there."""
MEMORY_WIDTH, MEMORY_LAYERS = 512, "local,lsh"
"""Of the model whose memory is measured: more of them add little but their weights' gradients."""


def run(size_name: Literal["small", "paper"], output: Path) -> None:
    """Measure, print, and write parallel-time.csv, parallel-memory.csv and parallel.png into `output`."""
    size = SIZES[size_name]
    times: list[Time] = []
    for width in size.widths:
        measured = measure_times(size, width)
        print(parallel_report.time_table(measured), flush=True)
        times += measured
    memories = list(measure_memory(size))
    print(parallel_report.memory_table(memories))
    print(*parallel_report.write(output, times, memories), sep="\n")


def make_config(workers: int, exchange: str, max_length: int, width: int, **model: Any) -> Config:
    """Configuration of a model over so many workers, with changes to `MODEL`."""
    tree = {
        "data": {"sequence_length": max_length},
        "model": {**MODEL, "embed_dim": width, "feed_forward_dim": 4 * width, "max_length": max_length, **model},
        "parallel": {"sequence_shards": workers, "attention": exchange},
        "train": {"workers": workers},
    }
    return load_config(None, tree)


def measure_times(size: Size, width: int) -> list[Time]:
    """Steps of one worker and of two, for the length and for twice the length, in turns."""
    max_length = 2 * size.length
    cases = [(APART, 2, max_length)]
    cases += [(exchange, 2, length) for length in (size.length, max_length) for exchange in EXCHANGES]
    with ExitStack() as stack:

        def start(workers: int, exchange: str) -> Processes:
            return stack.enter_context(start_workers(make_config(workers, exchange, max_length, width)))

        alone, other = (start(1, "heads") for _ in range(2))
        pools = {exchange: start(2, exchange) for exchange in EXCHANGES}
        for group in (alone, other, *pools.values()):
            group.call(SHORT)

        def take(exchange: str, length: int) -> list[Step]:
            if exchange != APART:
                return pools[exchange].call(length)
            for group in (alone, other):
                group.begin(length // 2)
            return alone.end() + other.end()

        turns = [
            [alone.call(size.length), *(take(exchange, length) for exchange, _, length in cases)]
            for _ in range(size.turns)
        ]
    cases.insert(0, (NONE, 1, size.length))
    steps = dict(zip(cases, zip(*turns, strict=True), strict=True))
    seconds = _seconds(steps[cases[0]])
    return [_time(width, case, taken, seconds, size.length) for case, taken in steps.items()]


def measure_memory(size: Size) -> Iterator[Memory]:
    """Peaks by exchange, workers and length; a single worker exchanges nothing."""
    for workers in size.memory_workers:
        for exchange in EXCHANGES if workers > 1 else (NONE,):
            for length in size.memory_lengths:
                wrapped = "heads" if exchange == NONE else exchange
                config = make_config(workers, wrapped, max(size.memory_lengths), MEMORY_WIDTH, layers=MEMORY_LAYERS)
                with start_workers(config) as group:
                    group.call(SHORT)
                    peak = max(step.peak_mib for step in group.call(length))
                yield Memory(exchange, workers, length, peak)


def _seconds(taken: tuple[list[Step], ...]) -> float:
    return median(max(step.seconds for step in steps) for steps in taken)


def _time(width: int, case: tuple[str, int, int], taken: tuple[list[Step], ...], alone: float, length: int) -> Time:
    exchange, workers, here = case
    seconds = _seconds(taken)
    cpu_seconds = median(sum(step.cpu_seconds for step in steps) for steps in taken)
    waited = median(sum(step.waited for step in steps) / workers for steps in taken)
    sent = sum(step.bytes_sent for step in taken[0]) / workers / 2**20
    ratio = alone / seconds if here == length else seconds / alone
    return Time(width, exchange, workers, here, seconds, cpu_seconds, waited, sent, ratio)
