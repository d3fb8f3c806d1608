"""Shared memory carries what sockets carry, bit for bit; where there is none sockets do, and a lost worker is noticed."""

import os
import random
import signal
import socket
import time
from collections import deque
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from reformer_dist.parallel import mailbox
from reformer_dist.parallel.collectives import Peers, Pending, Traffic, start_all_to_all
from reformer_dist.parallel.mailbox import open_mailbox
from reformer_dist.parallel.segments import Places
from tests.ranks import run_ranks

TIMEOUT = timedelta(seconds=20)
DTYPES = (torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.bool)
NUM_EXCHANGES = 60


def _world() -> dist.ProcessGroup:
    assert dist.group.WORLD is not None
    return dist.group.WORLD


def _rows(exchange: int, sender: int, receiver: int) -> Tensor:
    """What one worker sends to another in an exchange: nothing at times, and later ones are larger than all before."""
    generator = torch.Generator().manual_seed(1000 * exchange + 10 * sender + receiver)
    count = int(torch.randint(1 + 50 * exchange, (1,), generator=generator)) if exchange % 5 else 0
    x = torch.randn(count, 3, 2, generator=generator)
    return (x > 0) if DTYPES[exchange % 6] == torch.bool else (100 * x).to(DTYPES[exchange % 6])


def _exchange_by_turns() -> tuple[int, int]:
    """Up to five exchanges under way, read in place or not, by workers late by turns; bytes counted and sent."""
    rank, workers = dist.get_rank(), range(dist.get_world_size())
    peers = Peers(_world(), Traffic(), open_mailbox(_world(), TIMEOUT))
    assert peers.mailbox is not None
    under_way: deque[tuple[int, Pending]] = deque()
    sent = 0

    def end(exchange: int, pending: Pending) -> None:
        expected = [_rows(exchange, sender, rank) for sender in workers]
        if exchange % 2:
            parts: list[Tensor] = []
            pending.read(lambda first, rows: parts.append(rows.clone()))
            came = torch.cat(parts)
        else:
            came = pending.wait()
        assert came.dtype == expected[0].dtype
        assert torch.equal(came, torch.cat(expected))

    for exchange in range(NUM_EXCHANGES):
        rows = [_rows(exchange, rank, receiver) for receiver in workers]
        sent += sum(x.nbytes for receiver, x in enumerate(rows) if receiver != rank)
        receive = [len(_rows(exchange, sender, rank)) for sender in workers]
        time.sleep(0.01 * random.Random(100 * exchange + rank).randrange(2))
        under_way.append((exchange, start_all_to_all(torch.cat(rows), [len(x) for x in rows], receive, peers)))
        while len(under_way) > exchange % 6:
            end(*under_way.popleft())
    for item in under_way:
        end(*item)
    return peers.traffic.bytes_sent, sent


@pytest.mark.parametrize("workers", [2, 3])
def test_rows_arrive_whole_however_late_a_worker_is(workers: int) -> None:
    """All dtypes, uneven, larger and larger, several under way."""
    for counted, sent in run_ranks(_exchange_by_turns, workers):
        assert counted == sent


def _without_memory(reason: str) -> tuple[bool, Tensor]:
    """An exchange where the last worker has no such memory, or cannot reach the others'."""
    opened, called = mailbox.open_segment, mailbox._call
    if dist.get_rank() == dist.get_world_size() - 1:
        if reason == "no memory":
            mailbox.open_segment = _refuse
        else:
            mailbox._call = lambda rank, addresses: called(rank, [("nobody", b"")] * rank)
    try:
        box = open_mailbox(_world(), TIMEOUT)
    finally:
        mailbox.open_segment, mailbox._call = opened, called
    x = torch.arange(dist.get_world_size()) + 10 * dist.get_rank()
    ones = [1] * len(x)
    return box is None, start_all_to_all(x, ones, ones, Peers(_world(), Traffic(), box)).wait()


def _refuse() -> None:
    raise OSError("no")


@pytest.mark.parametrize("reason", ["no memory", "another machine"])
def test_without_shared_memory_all_workers_use_sockets(reason: str) -> None:
    for rank, (is_without, came) in enumerate(run_ranks(_without_memory, 3, reason)):
        assert is_without
        assert came.tolist() == [rank, 10 + rank, 20 + rank]


def _read_a_killed_workers_rows() -> None:
    """The last worker sends and is killed: what it sent is whole, its loss is noticed, and files have no names."""
    box = open_mailbox(_world(), timedelta(seconds=300))
    assert box is not None
    assert os.readlink(f"/proc/self/fd/{box._own.fileno()}").endswith("(deleted)")
    peers, rank, send = Peers(_world(), Traffic(), box), dist.get_rank(), [1000] * 3
    x = torch.full((3000,), float(rank))
    pending = start_all_to_all(x, send, send, peers)
    if rank == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    assert torch.equal(pending.wait(), torch.arange(3.0).repeat_interleave(1000))
    with pytest.raises(RuntimeError, match="Connection closed by peer"):
        start_all_to_all(x, send, send, peers).wait()


def test_a_killed_worker_leaves_whole_rows_and_no_files() -> None:
    with pytest.raises(RuntimeError, match=r"^rank 2:\nthe process died\nended by SIGKILL$"):  # the others answered
        run_ranks(_read_a_killed_workers_rows, 3, timeout=50.0, fresh=True)


def test_bytes_are_not_written_again_before_all_have_read_them() -> None:
    places = Places()
    first, nothing, second = places.take(100, 0), places.take(0, 0), places.take(100, 0)
    assert nothing.start == nothing.end
    assert second.start >= first.end
    first.read_before = 2
    assert places.take(100, 2).start >= second.end, "not all have started exchange 2"
    assert places.take(100, 3).start == first.start


def test_a_stranger_is_hung_up_on() -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("")  # the system gives it a name
        listener.listen(2)
        listener.settimeout(5)
        name = listener.getsockname()[1:].decode()
        calls = [mailbox._call(rank, [(name, secret)]) for rank, secret in ((5, b"0" * 16), (2, b"1" * 16))]
        assert all(calls)
        assert mailbox._answer(listener, b"1" * 16, 1).keys() == {2}
