"""How long a training has run: CPU-seconds of this process, which other processes of the machine do not change."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

WARM_UP = 0.03
"""Share of the time in which the learning rate rises to its peak."""
FIRST = 0.1
"""Share of the peak that the first step has, which is a good part of the time where sequences are long."""
DECAY = 0.3
"""Share of the time, at its end, in which it falls to zero."""


class Clock:
    """Runs while a block of `running` does, up to so many CPU-seconds."""

    def __init__(self, allowed: float) -> None:
        self.allowed = allowed
        self.cpu_seconds = 0.0
        self.wall_seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """A block whose time counts."""
        cpu, wall = time.process_time(), time.perf_counter()
        yield
        self.cpu_seconds += time.process_time() - cpu
        self.wall_seconds += time.perf_counter() - wall

    @property
    def share(self) -> float:
        """Share of the allowed time that is gone; 1 or more at the end."""
        return self.cpu_seconds / self.allowed


def learning_rate_factor(share: float) -> float:
    """Learning rate as a share of its peak, when that share of the time is gone: up, constant, and down to zero."""
    return max(0.0, min(1.0, FIRST + (1.0 - FIRST) * share / WARM_UP, (1.0 - share) / DECAY))
