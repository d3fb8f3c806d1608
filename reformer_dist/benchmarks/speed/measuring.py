"""Time and memory of training steps, each in a process of its own.

In: cases, each a function that makes a step of some length. Out: CPU-seconds and peak memory of every case.

CPU-seconds are user and system time of all threads of the process. Peak memory is what the process held at most during
the step above what it held before (see `process_memory`). Cases are measured in turns, so that a machine that drifts drifts
for all of them. Threads that wait sleep unless a suite says otherwise, so that CPU-seconds are work and not a busy machine's
idling.
"""

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from statistics import median
from typing import Literal
from unittest import mock

import torch

from reformer_dist.benchmarks.process_memory import restart_peak, status_mib

NUM_THREADS = 2
_SHORT = 256  # tokens of the step that loads code and starts threads
_ENOUGH_SECONDS = 3.0  # CPU-seconds after which a process takes no further sample
_MOST_SAMPLES = 6

Step = Callable[[], object]
Waiting = Literal["passive", "active"]
"""Threads that wait sleep, or go round; see OMP_WAIT_POLICY of OpenMP."""


@dataclass(frozen=True)
class Case:
    """One line of a table."""

    name: str
    """What is measured."""
    length: int
    """Tokens of the step."""
    make: Callable[[int], Step]
    """Makes a step (forward and backward) of that many tokens; sent to another process, so a function of a module."""
    keys: str = ""
    """Which keys a query sees, in words."""


@dataclass(frozen=True)
class Measurement:
    """What a case took, the median over its samples."""

    name: str
    length: int
    cpu_seconds: float
    seconds: float
    """Time on the clock."""
    peak_mib: float
    """Peak above the size before the step."""
    samples: int
    keys: str = ""


@dataclass(frozen=True)
class _Samples:
    cpu_seconds: list[float]
    seconds: list[float]
    peak_mib: float


def measure(
    cases: Sequence[Case], turns: int, report: Callable[[str], object] = print, *, waiting: Waiting = "passive"
) -> list[Measurement]:
    """Measure every case in `turns` processes, one after the other.

    Args:
        cases: what to measure.
        turns: processes of each.
        report: gets a line a process.
        waiting: what threads do between operators. Steps of many short operators cannot wait for threads to wake.

    """
    taken: list[list[_Samples]] = [[] for _ in cases]
    for turn in range(turns):
        for case, samples in zip(cases, taken, strict=True):
            sample = _in_a_process(case, waiting)
            samples.append(sample)
            report(
                f"  turn {turn + 1}/{turns}  {case.length:>9,}  {case.name:<32}"
                f"{median(sample.cpu_seconds):9.2f} CPU-s {sample.peak_mib:9,.0f} MiB"
            )
    return [_summary(case, samples) for case, samples in zip(cases, taken, strict=True)]


def _summary(case: Case, samples: Sequence[_Samples]) -> Measurement:
    cpu_seconds = [seconds for sample in samples for seconds in sample.cpu_seconds]
    seconds = [seconds for sample in samples for seconds in sample.seconds]
    peak = median(sample.peak_mib for sample in samples)
    return Measurement(case.name, case.length, median(cpu_seconds), median(seconds), peak, len(seconds), case.keys)


def _in_a_process(case: Case, waiting: Waiting) -> _Samples:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(case, sender))
    with mock.patch.dict(os.environ, {"OMP_WAIT_POLICY": waiting}):
        process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"{case.name} at {case.length:,} tokens ended with exit code {process.exitcode}") from None
    finally:
        process.join()


def _child(case: Case, sender: Connection) -> None:
    torch.set_num_threads(NUM_THREADS)
    torch.manual_seed(0)
    case.make(_SHORT)()
    step = case.make(case.length)
    before = restart_peak()
    cpu_seconds: list[float] = []
    seconds: list[float] = []
    peak = 0.0
    while not seconds or (len(seconds) < _MOST_SAMPLES and sum(cpu_seconds) < _ENOUGH_SECONDS):
        started, cpu_started = time.perf_counter(), time.process_time()
        step()
        cpu_seconds.append(time.process_time() - cpu_started)
        seconds.append(time.perf_counter() - started)
        peak = peak or (status_mib("VmHWM") - before)
    sender.send(_Samples(cpu_seconds, seconds, peak))
