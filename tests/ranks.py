"""Runs a function on several ranks, each a process with gloo, and brings their results back to the test.

Processes are kept from one test to the next, since starting them costs more than most tests; one that fails is replaced.
"""

import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tests.uninitialised import poison

_pools: dict[int, "_Pool"] = {}


def run_ranks(
    function: Callable[..., Any], num_ranks: int, *args: Any, timeout: float = 120.0, fresh: bool = False
) -> list[Any]:
    """Call `function(*args)` on every rank of a gloo group of `num_ranks`; their results by rank.

    `fresh` processes are used for this call alone.

    Raises:
        RuntimeError: a rank raised (its traceback is the message) or did not answer in time.
    """
    if fresh:
        pool = _Pool(num_ranks)
        try:
            return pool.run(function, args, timeout)
        finally:
            pool.close()
    if num_ranks not in _pools:
        _pools[num_ranks] = _Pool(num_ranks)
    try:
        return _pools[num_ranks].run(function, args, timeout)
    except RuntimeError:
        _pools.pop(num_ranks).close()
        raise


class _Pool:
    def __init__(self, num_ranks: int) -> None:
        context = mp.get_context("spawn")
        self.folder = tempfile.TemporaryDirectory()
        store = Path(self.folder.name) / "store"
        self.connections, self.processes = [], []
        for rank in range(num_ranks):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, num_ranks, f"file://{store}", theirs), daemon=True)
            process.start()
            self.connections.append(ours)
            self.processes.append(process)

    def run(self, function: Callable[..., Any], args: tuple[Any, ...], timeout: float) -> list[Any]:
        for connection in self.connections:
            connection.send((function, args))
        answers = []
        for rank, connection in enumerate(self.connections):
            if not connection.poll(timeout):
                raise RuntimeError(f"rank {rank} did not answer within {timeout} s")
            try:
                answers.append(connection.recv())
            except EOFError:
                answers.append((False, "the process died"))
        failures = [f"rank {rank}:\n{answer}" for rank, (ok, answer) in enumerate(answers) if not ok]
        if failures:
            raise RuntimeError("\n".join(failures))
        return [answer for _, answer in answers]

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()
        self.folder.cleanup()


def _serve(rank: int, num_ranks: int, store: str, connection: Connection) -> None:
    torch.set_num_threads(1)
    poison()
    dist.init_process_group("gloo", store, timedelta(seconds=60), num_ranks, rank)
    while True:
        try:
            function, args = connection.recv()
        except EOFError:
            return
        try:
            connection.send((True, function(*args)))
        except BaseException:  # noqa: BLE001 - whatever it was goes to the test as text
            connection.send((False, traceback.format_exc()))
