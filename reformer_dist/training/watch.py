"""What ends a training early: somebody who asks for its end, or a step whose numbers are not finite.

Each worker looks at the loss and the gradient norm of every step, on the device, without waiting for the device. The workers
tell each other what they saw only where the loop calls `read`: at logged steps and before a checkpoint. So no checkpoint
holds weights of a step that was not finite.
"""

import math
import time
from collections.abc import Callable
from enum import IntEnum

import torch
import torch.distributed as dist

NEVER = 2.0**53
"""Step number that stands for "all steps were finite": greater than any, and exact in float64."""
POLL_SECONDS = 0.5
"""Least time between two questions what is asked."""
NOTICE_SECONDS = 2.0
"""Least time between two looks for a notice that a node will be taken away."""


class Wish(IntEnum):
    """What somebody outside wants of the workers; the greater one holds."""

    NOTHING = 0
    SAVE = 1
    """A checkpoint, since these workers may be gone soon."""
    STOP = 2
    """A checkpoint and the end."""


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
        asked: what is wanted; one worker's answer is enough.
        noticed: whether there is news of a node that will be taken away; all workers ask it together, and get one answer.
    """

    def __init__(
        self, device: torch.device, asked: Callable[[], Wish], noticed: Callable[[], bool] = lambda: False
    ) -> None:
        self._first_bad = torch.full((), NEVER, dtype=torch.float64, device=device)
        self._asked, self._noticed = asked, noticed
        self._asked_at = self._looked_at = -math.inf

    def see(self, step: int, loss_sum: torch.Tensor, grad_norm: torch.Tensor | float) -> None:
        """Take in a step's loss and gradient norm on this worker."""
        both = torch.stack([loss_sum, torch.as_tensor(grad_norm).to(loss_sum)])
        self._first_bad = torch.where(both.isfinite().all(), self._first_bad, self._first_bad.clamp(max=step))

    def read(self) -> Wish:
        """What is asked of all workers now.

        Raises:
            Diverged: on all workers, when one of them has seen a number that is not finite.
        """
        now = time.monotonic()
        due = now - self._looked_at >= NOTICE_SECONDS
        answers = torch.stack([self._first_bad, *self._first_bad.new_tensor([-self._poll(now), -due])])
        dist.all_reduce(answers, op=dist.ReduceOp.MIN)
        first_bad, asked, due = answers.tolist()
        if first_bad < NEVER:
            raise Diverged(int(first_bad))
        wish = Wish(int(-asked))
        if due:
            self._looked_at = now
            if self._noticed():
                wish = max(wish, Wish.SAVE)
        return wish

    def _poll(self, now: float) -> Wish:
        if now - self._asked_at < POLL_SECONDS:
            return Wish.NOTHING
        self._asked_at = now
        return self._asked()
