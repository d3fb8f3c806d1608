"""Ray Train, which starts the workers, replaces lost ones and changes their number.

Only this file and `controller` import it.

In: what all workers of a training are given, and a mailbox. Out: `Fit`, a thread in which the workers run to their end.
Checkpoints are not reported to Ray Train: they are verified, outlive a launch, and are found without Ray.
"""

import os
import threading
import time
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import ray
import ray.train
import torch
from ray.train.torch import TorchConfig, get_device
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.controller.state import ResizingState, TrainControllerState
from ray.train.v2._internal.execution.scaling_policy import ResizeDecision

from reformer_dist import checkpoints
from reformer_dist.ray_session import free
from reformer_dist.storage.stores import parted
from reformer_dist.training import failures
from reformer_dist.training.ray_train.controller import Trainer
from reformer_dist.training.ray_train.mailbox import Mailbox
from reformer_dist.training.watch import Wish
from reformer_dist.training.worker import Work, work

POLL_SECONDS = 0.2
"""Time between two looks at what the workers have sent, or whether a checkpoint is there."""
SECONDS_TO_ABANDON = 5.0
"""Longest wait for the thread in which the controller notices that its workers are gone."""


@dataclass(frozen=True)
class Reserved:
    """A worker's message: the placement group that it is in."""

    placement_group: str


class Fit(threading.Thread):
    """A training's workers, beside the main thread, which is free to print and to hear Ctrl-C.

    Args:
        job: what the workers are given.
        mailbox: takes what they tell, and has what is wanted of them.

    Attributes:
        error: what ended them before their time, once the thread has ended.
    """

    def __init__(self, job: Work, mailbox: Mailbox) -> None:
        super().__init__(daemon=True)
        self._trainer = _trainer(job, mailbox)
        self.error: BaseException | None = None

    def run(self) -> None:
        """Train; a failure is kept for the main thread."""
        try:
            self._trainer.fit()
        except (ray.train.TrainingFailedError, ray.exceptions.RayError) as error:
            self.error = error

    def abandon(self, placement_group: str | None) -> None:
        """End the workers at once, given the placement group that they are in; whoever ends Ray next needs this first."""
        self._trainer.abandon()
        if placement_group is not None:
            free(placement_group)
        if self.is_alive():
            self.join(SECONDS_TO_ABANDON)


def _trainer(job: Work, mailbox: Mailbox) -> Trainer:
    config = job.config
    storage, name = parted(job.folder)
    ray_train = cast(Any, ray.train)  # type checkers see the classes of Ray Train's first version
    cpus = 1.0  # of which an elastic training counts how many there are
    if isinstance(config.train.workers, int):
        cpus = min(cpus, ray.cluster_resources().get("CPU", 1.0) / config.train.workers)
    return Trainer(
        _worker,
        train_loop_config={"job": job, "mailbox": mailbox},
        torch_config=TorchConfig(timeout_s=int(config.parallel.timeout_seconds)),
        scaling_config=ray_train.ScalingConfig(
            num_workers=config.train.workers,
            elastic_resize_monitor_interval_s=config.train.resize_seconds,
            use_gpu=config.train.use_gpu,
            resources_per_worker={"CPU": int(cpus * 1000) / 1000} | ({"GPU": 1} if config.train.use_gpu else {}),
        ),
        run_config=ray_train.RunConfig(
            name=name,
            storage_path=storage,
            failure_config=ray.train.FailureConfig(max_failures=config.train.max_failures),
            callbacks=[_Failures(mailbox), _Resizes(job, mailbox)],
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
    )


def _worker(arguments: dict[str, Any]) -> None:
    """What Ray Train runs in each worker, with torch.distributed initialised."""
    job: Work = arguments["job"]
    mailbox: Mailbox = arguments["mailbox"]
    cores = (os.cpu_count() or 1) // ray.train.get_context().get_local_world_size()
    torch.set_num_threads(job.config.train.threads or max(1, cores))
    group = ray.util.get_current_placement_group()
    if group is not None and ray.train.get_context().get_world_rank() == 0:
        mailbox.tell(Reserved(group.id.hex()))
    work(job, get_device(), mailbox.tell, partial(_asked, mailbox), _Notices().fresh)


def _asked(mailbox: Mailbox) -> Wish:
    """What the driver and the controller want, who cannot interrupt a step."""
    asked: Wish = max(mailbox.wishes(), default=Wish.NOTHING)
    if asked is Wish.STOP:
        mailbox.wish(asked)  # for those who take over, should these workers die before they stop
    return asked


class _Notices:
    """Ray's notices that nodes will be taken away, each told once."""

    def __init__(self) -> None:
        self._known: object = None

    def fresh(self) -> bool:
        """Whether there is a new one; all workers ask together and get one answer."""
        known, self._known = self._known, ray.train.get_preemption_info()
        return self._known not in (None, known)


class _Failures(ray.train.UserCallback):
    """Tells the driver of failed workers as soon as Ray Train knows."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        rank, error = failures.first_cause(worker_exceptions)
        self._mailbox.tell(f"worker {rank} failed: {failures.kind_and_reason(error)}")


class _Resizes(ControllerCallback):
    """Lets the workers of an elastic training write a checkpoint before another number of workers takes over."""

    def __init__(self, job: Work, mailbox: Mailbox) -> None:
        self._folder, self._patience = job.folder, job.config.parallel.timeout_seconds
        self._mailbox = mailbox

    def after_controller_state_update(
        self, previous_state: TrainControllerState, current_state: TrainControllerState
    ) -> None:
        if not isinstance(current_state, ResizingState):
            return
        decision = cast(ResizeDecision, current_state.scaling_decision)
        self._mailbox.tell(f"going on with {decision.num_workers} workers after a checkpoint")
        before, end = checkpoints.newest_step(self._folder), time.monotonic() + self._patience
        self._mailbox.wish(Wish.SAVE)
        while checkpoints.newest_step(self._folder) == before and time.monotonic() < end:
            time.sleep(POLL_SECONDS)
