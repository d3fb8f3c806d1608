"""Processes of this machine that work together: a gloo group, a thread each, which stay until they are closed.

In: how many, and what each of them does with what it is sent. Out: their answers, by rank. Benchmarks and tests use them.
"""

import faulthandler
import os
import signal
import tempfile
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

Answer = Callable[..., Any]
"""What a process does with the arguments that it is sent."""


class Processes:
    """A group of processes, to be closed; a context manager.

    Args:
        num_ranks: how many.
        start: called once in each process when the group is there; gives what answers. It is sent, so a function of a
            module, or a `partial` of one.
        timeout: how long a process waits for another one.
    """

    def __init__(self, num_ranks: int, start: Callable[[], Answer], timeout: timedelta) -> None:
        context = mp.get_context("spawn")
        self._folder = tempfile.TemporaryDirectory()
        self._processes, self._connections = [], []
        for rank in range(num_ranks):
            ours, theirs = context.Pipe()
            place = (Path(self._folder.name), rank, num_ranks)
            process = context.Process(target=_serve, args=(place, timeout, start, theirs), daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)
            self._connections.append(ours)

    def call(self, *arguments: Any, timeout: float | None = None) -> list[Any]:
        """Send all processes the arguments and wait for their answers, by rank.

        Raises:
            RuntimeError: see `end`.
        """
        self.begin(*arguments)
        return self.end(timeout)

    def begin(self, *arguments: Any) -> None:
        """Send all processes the arguments; `end` waits for the answers."""
        for connection in self._connections:
            connection.send(arguments)

    def end(self, timeout: float | None = None) -> list[Any]:
        """The answers to what `begin` sent, by rank.

        Args:
            timeout: seconds to wait for each.

        Raises:
            RuntimeError: a process did not answer in time, or ended; the message has what it wrote to stderr, such as
                its traceback. The group is of no more use.
        """
        answers, failures = [], []
        for rank, connection in enumerate(self._connections):
            if not connection.poll(timeout):
                raise RuntimeError(f"rank {rank} did not answer within {timeout} s")
            try:
                answers.append(connection.recv())
            except EOFError:
                failures.append(f"rank {rank}:\n{self._reason(rank)}")
        if failures:
            raise RuntimeError("\n".join(failures))
        return answers

    def _reason(self, rank: int) -> str:
        """Why a process ended: what it wrote to stderr since it was last called, and the signal if it was one."""
        process = self._processes[rank]
        process.join()
        reason = _stderr_file(Path(self._folder.name), rank).read_text(errors="replace").strip() or "the process died"
        status = process.exitcode or 0
        return reason if status >= 0 else f"{reason}\nended by {signal.Signals(-status).name}"

    def close(self) -> None:
        """End the processes, whatever they do."""
        for process in self._processes:
            process.kill()
            process.join()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _serve(
    place: tuple[Path, int, int], timeout: timedelta, start: Callable[[], Answer], connection: Connection
) -> None:
    """A process's life: an answer to whatever comes, until something goes wrong."""
    folder, rank, num_ranks = place
    with _stderr_file(folder, rank).open("a") as file:
        os.dup2(file.fileno(), 2)  # of libraries below Python too
    faulthandler.enable()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder / 'store'}", timeout, num_ranks, rank)
    answer = start()
    while True:
        try:
            arguments = connection.recv()
        except EOFError:
            return
        os.truncate(2, 0)  # warnings of calls that went well explain nothing
        connection.send(answer(*arguments))


def _stderr_file(folder: Path, rank: int) -> Path:
    return folder / f"{rank}.txt"
