"""What may end a training early or ask it for a checkpoint: a wish from outside, or a loss that is not finite.

Each worker checks the numbers of every step on its device, without waiting for the result. Workers exchange what they have
found only when the loop calls `Watch.read`, at logged steps and before a checkpoint. A step that spoilt the weights is
therefore known before they are written.
"""

import math
import time
from collections.abc import Callable
from enum import IntEnum

import torch
import torch.distributed as dist

NEVER = 2.0**53
"""Stands for the step of a number that is not finite while there has been none: larger than any step."""
POLL_SECONDS = 0.5
"""Least time between two calls of `asked`, which may be answered by another process."""
NOTICE_SECONDS = 2.0
"""Least time between two calls of `noticed`, for which workers wait for each other."""


class Wish(IntEnum):
    """What somebody outside wants of the workers; of two wishes the greater one counts."""

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
    """Keeps what one worker has seen; `read` is collective, and returns the same on all workers.

    Args:
        device: the worker's.
        asked: returns what is wanted; one worker's answer holds for all.
        noticed: returns whether a node was newly announced to be taken away; all workers call it together and get the
            same answer.
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
        """The wish that all workers are to follow now.

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
