"""Groups of processes: they answer by rank, keep what they have made, and say why they ended."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
import torch.distributed as dist

from reformer_dist.benchmarks.parallel.processes import Processes


def start() -> Callable[[str], tuple[int, int, int]]:
    """Counts its calls; rank 1 takes some words amiss."""
    calls: list[str] = []
    print("nobody wants to know", file=sys.stderr, flush=True)

    def answer(word: str) -> tuple[int, int, int]:
        calls.append(word)
        if dist.get_rank() == 1:
            if word == "raise":
                raise ArithmeticError("one and one is three")
            if word == "fail":
                pytest.fail("no exception of the ordinary kind")
            if word == "die":
                os._exit(3)
            if word == "fault":
                os.kill(os.getpid(), signal.SIGSEGV)
            if word == "sleep":
                time.sleep(60)
        return dist.get_rank(), dist.get_world_size(), len(calls)

    return answer


@pytest.fixture
def processes() -> Iterator[Processes]:
    with Processes(2, start, timedelta(seconds=30)) as group:
        yield group


def test_answers_are_by_rank_and_processes_stay(processes: Processes) -> None:
    assert processes.call("first") == [(0, 2, 1), (1, 2, 1)]
    processes.begin("second")
    assert processes.end() == [(0, 2, 2), (1, 2, 2)]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("raise", r"(?s)^rank 1:\n.*in answer\n.*ArithmeticError: one and one is three$"),
        ("fail", r"(?s)^rank 1:\n.*no exception of the ordinary kind$"),
        ("die", r"^rank 1:\nthe process died$"),
        ("fault", r"(?s)^rank 1:\nFatal Python error: Segmentation fault.*in answer\n.*ended by SIGSEGV$"),
    ],
)
def test_a_process_that_ends_is_told_with_its_reason(processes: Processes, word: str, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        processes.call(word)


def test_a_process_that_does_not_answer_is_told_in_time(processes: Processes) -> None:
    processes.call("first")
    with pytest.raises(RuntimeError, match=r"^rank 1 did not answer within 0\.5 s$"):
        processes.call("sleep", timeout=0.5)
