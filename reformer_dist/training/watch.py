"""What ends a training before its last step: numbers that are not finite, or being asked to stop.

Every step is looked at, on the device, without waiting for it; workers compare notes only where the loop asks them to,
at logged steps and before a checkpoint. So a checkpoint never holds weights that a step has spoilt.
"""

import math
import time
from collections.abc import Callable

import torch
import torch.distributed as dist

NEVER = 2.0**53
POLL_SECONDS = 0.5
"""Least time between two questions whether to stop."""


class Diverged(FloatingPointError):
    """The loss or the gradient of a step was not finite.

    Attributes:
        step: the first such step, counted from zero.
    """

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step


class Watch:
    """One worker's watch; `read` is collective.

    Args:
        device: the worker's.
        asked_to_stop: whether somebody wants training to end; one worker's yes is enough.
    """

    def __init__(self, device: torch.device, asked_to_stop: Callable[[], bool]) -> None:
        self._first_bad = torch.full((), NEVER, dtype=torch.float64, device=device)
        self._asked_to_stop = asked_to_stop
        self._asked_at = -math.inf

    def see(self, step: int, loss_sum: torch.Tensor, grad_norm: torch.Tensor | float) -> None:
        """Take in a step's loss and gradient norm on this worker."""
        both = torch.stack([loss_sum, torch.as_tensor(grad_norm).to(loss_sum)])
        self._first_bad = torch.where(both.isfinite().all(), self._first_bad, self._first_bad.clamp(max=step))

    def read(self) -> bool:
        """Whether to stop.

        Raises:
            Diverged: on all workers, when one of them has seen a number that is not finite.
        """
        answers = torch.stack([self._first_bad, self._first_bad.new_tensor(-float(self._poll()))])
        dist.all_reduce(answers, op=dist.ReduceOp.MIN)
        first_bad, stop = answers.tolist()
        if first_bad < NEVER:
            raise Diverged(int(first_bad))
        return bool(stop)

    def _poll(self) -> bool:
        now = time.monotonic()
        if now - self._asked_at < POLL_SECONDS:
            return False
        self._asked_at = now
        return self._asked_to_stop()
