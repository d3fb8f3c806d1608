"""What the driver does while workers train: it shows and logs what they send, and tells them when to stop.

In: messages from rank 0, through a mailbox (`ray.train.report` would hold up every worker at each call). Out: lines on the
terminal, metrics in MLflow, what a watcher hears, and a training's failure or end as an exception.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from signal import Signals
from typing import Protocol

from reformer_dist import checkpoints
from reformer_dist.errors import JobFailed, JobStopped
from reformer_dist.tracking import runs
from reformer_dist.training import failures
from reformer_dist.training.progress import Terminal
from reformer_dist.training.ray_train.mailbox import Mailbox
from reformer_dist.training.ray_train.trainer import POLL_SECONDS, Fit, Reserved
from reformer_dist.training.signals import stop_signals
from reformer_dist.training.watch import Wish
from reformer_dist.training.worker import Message, Work


class Watcher(Protocol):
    """Someone who follows a training and may end it early, such as a sweep."""

    def started(self, run_id: str) -> None:
        """Take the MLflow run."""

    def reserved(self, placement_group: str) -> None:
        """Take the id of the placement group that holds the workers' resources."""

    def reported(self, step: int, metrics: dict[str, float]) -> None:
        """Take metrics after so many steps."""

    def told(self, line: str) -> None:
        """Take a line about the training's surroundings, such as a server that is away."""

    def wants_end(self) -> bool:
        """Whether training is to end at the next logged step, with a checkpoint."""


def train_and_listen(job: Work, run: runs.Run, terminal: Terminal, watcher: Watcher | None) -> None:
    """Run the workers to their end, showing and logging what they send.

    Raises:
        JobFailed: they failed, or their numbers were not finite.
        JobStopped: a signal ended the training before its last step, or nobody reads its output any more (SIGPIPE).
    """
    mailbox = Mailbox()
    fit = Fit(job, mailbox)
    group: str | None = None
    diverged: FloatingPointError | None = None
    with stop_signals() as signals, ExitStack() as leaving:  # in a hurry: a worker would take half a minute to end
        leaving.callback(lambda: fit.abandon(group))

        def wants_end() -> bool:
            return bool(signals) or terminal.is_closed or (watcher is not None and watcher.wants_end())

        for message in _received(mailbox, fit, wants_end):
            match message:
                case Reserved(group):
                    if watcher is not None:
                        watcher.reserved(group)
                case str():
                    terminal.line(message)
                case int():
                    terminal.restart(message)
                    if (last := run.last_step("train/loss")) > message:
                        terminal.line(f"steps {message + 1} to {last} are computed again")
                case FloatingPointError():
                    diverged = message  # the workers are ending; Ray must not be shut down under the thread that waits
                case (step, metrics):
                    terminal.metrics(step, metrics)
                    run.log(step, metrics)
                    if watcher is not None:
                        watcher.reported(step, metrics)
        leaving.pop_all()
    if diverged is not None:
        raise JobFailed(f"{diverged}; {_what_is_left(job)}")
    if fit.error is not None:
        raise JobFailed(f"{failures.explain(fit.error, job.folder)}; {_what_is_left(job)}")
    if terminal.is_closed:
        signals.append(Signals.SIGPIPE)
    if signals and _steps_done(job) < job.config.train.steps:
        raise JobStopped(f"stopped by {Signals(signals[0]).name}; {_what_is_left(job)}", 128 + signals[0])


def _received(mailbox: Mailbox, fit: Fit, wants_end: Callable[[], bool]) -> Iterator[Message | Reserved]:
    """What the workers put into the mailbox, until the trainer has ended and everything is out."""
    fit.start()
    ended = told = False
    while not ended:
        fit.join(POLL_SECONDS)
        ended = not fit.is_alive()
        yield from mailbox.told()
        if not told and wants_end():
            told = True
            mailbox.wish(Wish.STOP)
            yield "stopping after a checkpoint"


def _steps_done(job: Work) -> int:
    path = checkpoints.newest(job.folder)
    return checkpoints.read_state(path).step if path else 0


def _what_is_left(job: Work) -> str:
    path = checkpoints.newest(job.folder)
    return f"the same command goes on from {path}" if path else "there is no checkpoint yet"
