"""Exchanges between workers of one machine, through memory that they share instead of sockets.

In: a tensor's rows for each worker of a group. Out: the rows that came, read where their sender wrote them. A sender copies
rows into a segment of its own and tells each receiver over a local socket where they lie; sockets carry nothing else. So
waiting burns no processor time, a worker that is gone is noticed at once, and one that hangs after the timeout.

A sender's bytes are free once all have read them. Nobody has to say so: all workers start exchanges, and read what came, in
the same order, so whoever has started an exchange has read all that one reads before that.

Legend: P workers of the group.
"""

import contextlib
import logging
import secrets
import select
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from math import prod

import torch
import torch.distributed as dist
from torch import Tensor

from reformer_dist.parallel.segments import Place, Places, Segment, open_segment, padded

_NOTE = struct.Struct("=QQ")
"""What a sender tells a receiver: the first byte of its rows, and the bytes that the segment has by now."""
_GREETING = struct.Struct("=Q16s")
"""The caller's rank, and the secret of whom it calls."""
Use = Callable[[int, Tensor], object]
"""What is done with rows that came from one worker: the index of the first of them among all that came, and the rows."""


@dataclass(frozen=True)
class Letter:
    """An exchange under way, as its sender knows it."""

    exchange: int
    """Its number."""
    place: Place
    """Of what is sent to others."""
    own: Tensor
    """Rows that this worker sends to itself."""


class Mailbox:
    """This worker's end of the shared memory of a group."""

    def __init__(
        self, rank: int, own: Segment, others: dict[int, tuple[socket.socket, Segment]], timeout: timedelta
    ) -> None:
        """Use connections that are made; see `open_mailbox`."""
        self._rank, self._own, self._timeout = rank, own, timeout.total_seconds()
        self._sockets = {peer: connection for peer, (connection, _) in others.items()}
        self._segments = {peer: segment for peer, (_, segment) in others.items()}
        for connection in self._sockets.values():
            connection.settimeout(self._timeout)
        self._places = Places()
        self._num_started = 0
        self._partial = dict.fromkeys(others, b"")
        self._heard = dict.fromkeys(others, 0)  # notes that came from each worker
        self._notes: dict[int, dict[int, int]] = {}  # by exchange and worker: where rows that were not read yet begin

    def post(self, rows: Sequence[Tensor]) -> "Letter":
        """Send rows[p] to worker p of the group; those for others may change when this returns.

        Raises:
            RuntimeError: a worker is gone.
        """
        sizes = [0 if peer == self._rank else padded(x.nbytes) for peer, x in enumerate(rows)]
        place = self._places.take(sum(sizes), min(self._heard.values()))
        if place.end > self._own.size:
            self._own.grow(2 * place.end)
        start = place.start
        for peer, x in enumerate(rows):
            if sizes[peer]:
                self._own.tensor(start, x.shape, x.dtype).copy_(x)
            if peer != self._rank:
                self._tell(peer, _NOTE.pack(start, self._own.size))
            start += sizes[peer]
        self._num_started += 1
        return Letter(self._num_started - 1, place, rows[self._rank])

    def wait(self, exchange: int) -> None:
        """Until all others have sent what they send in an exchange.

        Raises:
            RuntimeError: one of them is gone, or did not send it in time.
        """
        deadline = time.monotonic() + self._timeout
        while late := [peer for peer, heard in self._heard.items() if heard <= exchange]:
            poll = select.poll()
            for peer in late:
                poll.register(self._sockets[peer], select.POLLIN)
            left = deadline - time.monotonic()
            ready = {number for number, _ in poll.poll(1000 * left)} if left > 0 else set()
            if not ready:
                raise RuntimeError(f"Timed out waiting {self._timeout:g} s for workers {late} of the group")
            for peer in late:
                if self._sockets[peer].fileno() in ready:
                    self._hear(peer)

    def read(self, letter: "Letter", counts: Sequence[int], use: Use) -> None:
        """Hand the counts[p] rows that came from worker p to `use`, worker by worker, in place; they may change after it."""
        starts, first = self._notes.pop(letter.exchange), 0
        for peer, count in enumerate(counts):
            shape = (count, *letter.own.shape[1:])
            if peer == self._rank:
                use(first, letter.own)
            elif prod(shape):
                use(first, self._segments[peer].tensor(starts[peer], shape, letter.own.dtype))
            first += count
        letter.place.read_before = self._num_started

    def _tell(self, peer: int, note: bytes) -> None:
        try:
            self._sockets[peer].sendall(note)
        except TimeoutError as error:
            raise RuntimeError(f"Timed out waiting {self._timeout:g} s for worker {peer} of the group") from error
        except OSError as error:
            raise _gone(peer) from error

    def _hear(self, peer: int) -> None:
        try:
            came = self._sockets[peer].recv(64 * _NOTE.size)
        except OSError as error:
            raise _gone(peer) from error
        if not came:
            raise _gone(peer)
        notes = self._partial[peer] + came
        whole = len(notes) // _NOTE.size * _NOTE.size
        self._partial[peer] = notes[whole:]
        for start, size in _NOTE.iter_unpack(notes[:whole]):
            self._segments[peer].reach(size)
            self._notes.setdefault(self._heard[peer], {})[peer] = start
            self._heard[peer] += 1


def open_mailbox(group: dist.ProcessGroup, timeout: timedelta) -> Mailbox | None:
    """Connect the workers of a group; None, on all of them, if they do not share a machine. Collective.

    Args:
        group: of a backend that sends objects, such as gloo.
        timeout: how long one worker waits for another one.
    """
    rank, num_workers = dist.get_rank(group), dist.get_world_size(group)
    with contextlib.ExitStack() as stack:
        try:
            own = open_segment()
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            name, secret = secrets.token_hex(16), secrets.token_bytes(16)
            listener.bind(f"\0{name}")  # in no folder, and gone with the process
            listener.listen(num_workers)
            listener.settimeout(timeout.total_seconds())
            own_address: tuple[str, bytes] | None = (name, secret)
        except OSError:
            own_address = None
        addresses: list[tuple[str, bytes] | None] = [None] * num_workers
        dist.all_gather_object(addresses, own_address, group=group)
        called = _call(rank, addresses[:rank]) if all(addresses) else None
        everyone = torch.tensor(called is not None)
        dist.all_reduce(everyone, dist.ReduceOp.MIN, group=group)
        if not everyone or called is None:
            if rank == 0:
                logging.getLogger(__name__).warning(
                    "workers do not share a machine's memory: they exchange over sockets"
                )
            return None
        connections = {**dict(enumerate(called)), **_answer(listener, secret, num_workers - 1 - rank)}
        for connection in connections.values():
            connection.settimeout(timeout.total_seconds())
            socket.send_fds(connection, [b"."], [own.fileno()])
        others = {peer: (connection, _segment_of(connection)) for peer, connection in connections.items()}
        return Mailbox(rank, own, others, timeout)


def _call(rank: int, addresses: Sequence[tuple[str, bytes] | None]) -> list[socket.socket] | None:
    """Connections to the workers of lower ranks; None if one cannot be reached, as from another machine or container."""
    connections: list[socket.socket] = []
    for address in addresses:
        assert address is not None
        name, secret = address
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(f"\0{name}")
            connection.sendall(_GREETING.pack(rank, secret))
        except OSError:
            return None
        connections.append(connection)
    return connections


def _answer(listener: socket.socket, secret: bytes, num_callers: int) -> dict[int, socket.socket]:
    """Connections by rank of the workers that have called; strangers, who do not know the secret, are hung up on."""
    found: dict[int, socket.socket] = {}
    while len(found) < num_callers:
        connection, _ = listener.accept()
        connection.settimeout(listener.gettimeout())
        greeting = connection.recv(_GREETING.size)
        if len(greeting) == _GREETING.size and secrets.compare_digest(greeting[8:], secret):
            found[_GREETING.unpack(greeting)[0]] = connection
        else:
            connection.close()
    return found


def _segment_of(connection: socket.socket) -> Segment:
    _, descriptors, _, _ = socket.recv_fds(connection, 1, 1)
    return Segment(descriptors[0])


def _gone(peer: int) -> RuntimeError:
    return RuntimeError(f"Connection closed by peer: worker {peer} of the group is gone")
