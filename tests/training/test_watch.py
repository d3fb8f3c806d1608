"""What one worker hears, all of them do; news of a node that goes away is asked for together."""

import torch
import torch.distributed as dist

from reformer_dist.training import watch
from reformer_dist.training.watch import Watch, Wish
from tests.ranks import run_ranks


def _readings(notices: list[bool]) -> tuple[list[Wish], int]:
    """Four readings, of which rank 0 alone hears SAVE, STOP, nothing, nothing; and how often it was asked for notices."""
    watch.POLL_SECONDS = watch.NOTICE_SECONDS = 0.0
    wishes = iter([Wish.SAVE, Wish.STOP, Wish.NOTHING, Wish.NOTHING])
    asked = []

    def noticed() -> bool:
        dist.barrier()  # as Ray's is, so that a worker that does not ask would be waited for
        asked.append(None)
        return notices[len(asked) - 1]

    one = Watch(torch.device("cpu"), (lambda: next(wishes)) if dist.get_rank() == 0 else lambda: Wish.NOTHING, noticed)
    return [one.read() for _ in range(4)], len(asked)


def test_all_workers_follow_what_one_of_them_hears() -> None:
    expected = [Wish.SAVE, Wish.STOP, Wish.NOTHING, Wish.SAVE], 4
    assert run_ranks(_readings, 2, [False, True, False, True], fresh=True) == [expected, expected]
