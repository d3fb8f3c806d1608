"""Runs a function on several ranks, each a process with gloo, and brings their results back to the test.

Processes are kept from one test to the next, since starting them costs more than most tests; one that fails is replaced.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from reformer_dist.benchmarks.parallel.processes import Processes
from tests.uninitialised import poison

TIMEOUT = timedelta(seconds=60)
_kept: dict[int, Processes] = {}


def run_ranks(
    function: Callable[..., Any], num_ranks: int, *args: Any, timeout: float = 120.0, fresh: bool = False
) -> list[Any]:
    """Call `function(*args)` on every rank of a gloo group of `num_ranks`; their results by rank.

    `fresh` processes are used for this call alone.

    Raises:
        RuntimeError: a rank raised (its traceback is the message) or did not answer in time.
    """
    if fresh:
        with Processes(num_ranks, _start, TIMEOUT) as processes:
            return processes.call(function, args, timeout=timeout)
    if num_ranks not in _kept:
        _kept[num_ranks] = Processes(num_ranks, _start, TIMEOUT)
    try:
        return _kept[num_ranks].call(function, args, timeout=timeout)
    except RuntimeError:
        _kept.pop(num_ranks).close()
        raise


def _start() -> Callable[..., Any]:
    poison()
    return _call


def _call(function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    return function(*args)
