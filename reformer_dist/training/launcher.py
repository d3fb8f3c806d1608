"""Launching: the only file that imports Ray Train.

In: a configuration, on the driver. Out: a trained model's last checkpoint and its MLflow run.

The driver checks, prepares the corpus, decides where to start, and then listens: rank 0 sends metrics through a queue
(`ray.train.report` would hold up every worker at each call), and the driver shows and logs them. Checkpoints are
not reported to Ray Train either: they are verified, outlive a launch, and are found without Ray (see checkpoint.py).
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from signal import Signals
from typing import Any, Protocol, cast

import ray
import ray.train
import torch
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.controller.state import ResizingState, TrainControllerState
from ray.train.v2._internal.execution.scaling_policy import ResizeDecision
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from reformer_dist.checkpoints import checkpoint
from reformer_dist.checkpoints.starting_point import check, decide
from reformer_dist.config import Config
from reformer_dist.data.preparing.preparation import plan_preparation
from reformer_dist.errors import JobFailed, JobStopped
from reformer_dist.objectives.choice import make_objective
from reformer_dist.planning import preflight as checks
from reformer_dist.ray_session import ray_session
from reformer_dist.tracking import runs as tracking
from reformer_dist.tracking.place import check_reachable, tracking_uri
from reformer_dist.training import failures
from reformer_dist.training.meter import in_split
from reformer_dist.training.progress import Terminal
from reformer_dist.training.results import keep_results
from reformer_dist.training.signals import stop_signals
from reformer_dist.training.watch import Wish
from reformer_dist.training.worker import Message, Work, work

POLL_SECONDS = 0.2


@dataclass(frozen=True)
class RunResult:
    """What a training leaves.

    Attributes:
        run_id: MLflow run.
        metrics: last value of each metric.
        checkpoint: folder or URL of the last checkpoint.
        tracking_uri: where MLflow keeps the run.
        url_hint: how to look at the run.
    """

    run_id: str
    metrics: dict[str, float]
    checkpoint: str
    tracking_uri: str
    url_hint: str


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


@dataclass(frozen=True)
class Reserved:
    """A worker's message: the placement group that it is in."""

    placement_group: str


def launch(config: Config, *, parent_run: str | None = None, watcher: Watcher | None = None) -> RunResult:
    """Train as the configuration says, from its own last checkpoint if there is one (`train.resume`).

    Args:
        config: the configuration.
        parent_run: MLflow run that this one is part of.
        watcher: follows the training. If it ends it, the training counts as finished.

    Raises:
        ConfigError: a mistake of the user; all that can be known before is found before a worker is taken.
        JobFailed: the workers failed; one line with the cause and where the whole story is.
        JobStopped: Ctrl-C or SIGTERM; the workers have written a checkpoint first. A second signal does not wait for it.
    """
    checks.check_config(config)
    check_reachable(tracking_uri(config))
    check(config)
    preparation = plan_preparation(config.data, config.train.storage)
    joins = ray.is_initialized() or "RAY_ADDRESS" in os.environ
    if not joins:
        checks.check_machine(config)
    beside = ThreadPoolExecutor(1)
    experiment = beside.submit(tracking.open_experiment, config, print if watcher is None else watcher.told)
    beside.shutdown(wait=False)
    with ray_session():
        if joins:
            checks.check_cluster(config, ray.cluster_resources())
        corpus = preparation.run()
        checks.check_corpus(config, corpus)
        place = decide(config, corpus)
        run = experiment.result().start(config, parent_run=parent_run, run_id=place.run_id)
        if watcher is not None:
            watcher.started(run.id)
        if place.run_id is not None and place.start is not None:
            for step, metrics in checkpoint.read_metrics(
                place.start
            ):  # a killed driver may not have sent the last ones
                run.log(step, metrics)
        with run:
            if run.last_step("baseline/loss") < 0:
                run.log(0, in_split("baseline", make_objective(config.objective).baseline(corpus, "validation")))
            if place.step < config.train.steps:
                with Terminal(config) as terminal:
                    _train(Work(config, corpus, place.folder, place.start, run.id), run, terminal, watcher)
            else:
                print(f"{place.start} has done all of train.steps = {config.train.steps}: a larger number goes on")
            path = checkpoint.newest(place.folder)
            assert path is not None, "the last step, like one at which training was ended, writes a checkpoint"
            keep_results(config, corpus, run, path)
        return RunResult(run.id, run.last_metrics(), path, run.uri, run.url_hint())


def _train(job: Work, run: tracking.Run, terminal: Terminal, watcher: Watcher | None) -> None:
    """Run the workers to their end, showing and logging what they send."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    messages = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
    wishes = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
    fit = _Fit(_trainer(job, messages, wishes))
    diverged: FloatingPointError | None = None
    with stop_signals() as signals:
        wants_end = (lambda: bool(signals)) if watcher is None else lambda: bool(signals) or watcher.wants_end()
        for message in _received(messages, fit, wants_end, wishes):
            match message:
                case Reserved() if watcher is not None:
                    watcher.reserved(message.placement_group)
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
    if diverged is not None:
        raise JobFailed(f"{diverged}; {_what_is_left(job)}")
    if fit.error is not None:
        raise JobFailed(f"{failures.explain(fit.error, job.folder)}; {_what_is_left(job)}")
    if signals and _steps_done(job) < job.config.train.steps:
        raise JobStopped(f"stopped by {Signals(signals[0]).name}; {_what_is_left(job)}", 128 + signals[0])


def _received(
    messages: Queue, fit: "_Fit", wants_end: Callable[[], bool], wishes: Queue
) -> Iterator[Message | Reserved]:
    """What the workers put into the queue, until the trainer has ended and everything is out."""
    fit.start()
    ended = told = False
    while not ended:
        fit.join(POLL_SECONDS)
        ended = not fit.is_alive()
        yield from messages.get_nowait_batch(messages.qsize())
        if not told and wants_end():
            told = True
            wishes.put(Wish.STOP)
            yield "stopping after a checkpoint"


def _steps_done(job: Work) -> int:
    path = checkpoint.newest(job.folder)
    return checkpoint.read_state(path).step if path else 0


def _what_is_left(job: Work) -> str:
    path = checkpoint.newest(job.folder)
    return f"the same command goes on from {path}" if path else "there is no checkpoint yet"


def _trainer(job: Work, messages: Queue, wishes: Queue) -> TorchTrainer:
    config = job.config
    storage, _, name = job.folder.rpartition("/")
    ray_train = cast(Any, ray.train)  # type checkers see the classes of Ray Train's first version
    cpus = 1.0  # of which an elastic training counts how many there are
    if isinstance(config.train.workers, int):
        cpus = min(cpus, ray.cluster_resources().get("CPU", 1.0) / config.train.workers)
    return TorchTrainer(
        _worker,
        train_loop_config={"job": job, "messages": messages, "wishes": wishes},
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
            callbacks=[_Failures(messages), _Resizes(job, messages, wishes)],
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
    )


def _worker(arguments: dict[str, Any]) -> None:
    """What Ray Train runs in each worker, with torch.distributed initialised."""
    job: Work = arguments["job"]
    cores = (os.cpu_count() or 1) // ray.train.get_context().get_local_world_size()
    torch.set_num_threads(job.config.train.threads or max(1, cores))
    group = ray.util.get_current_placement_group()
    if group is not None and ray.train.get_context().get_world_rank() == 0:
        arguments["messages"].put(Reserved(group.id.hex()))
    work(job, get_device(), arguments["messages"].put, partial(_asked, arguments["wishes"]), _Notices().fresh)


def _asked(wishes: Queue) -> Wish:
    """What the driver and the controller want, who cannot interrupt a step."""
    asked = max(wishes.get_nowait_batch(wishes.qsize()), default=Wish.NOTHING)
    if asked is Wish.STOP:
        wishes.put(asked)  # for those who take over, should these workers die before they stop
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

    def __init__(self, messages: Queue) -> None:
        self._messages = messages

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        rank, error = failures.first_cause(worker_exceptions)
        self._messages.put(f"worker {rank} failed: {failures.one_line(error)}")


class _Resizes(ControllerCallback):
    """Lets the workers of an elastic training write a checkpoint before another number of workers takes over."""

    def __init__(self, job: Work, messages: Queue, wishes: Queue) -> None:
        self._folder, self._patience = job.folder, job.config.parallel.timeout_seconds
        self._messages, self._wishes = messages, wishes

    def after_controller_state_update(
        self, previous_state: TrainControllerState, current_state: TrainControllerState
    ) -> None:
        if not isinstance(current_state, ResizingState):
            return
        decision = cast(ResizeDecision, current_state.scaling_decision)
        self._messages.put(f"going on with {decision.num_workers} workers after a checkpoint")
        before, end = checkpoint.newest_step(self._folder), time.monotonic() + self._patience
        self._wishes.put(Wish.SAVE)
        while checkpoint.newest_step(self._folder) == before and time.monotonic() < end:
            time.sleep(POLL_SECONDS)


class _Fit(threading.Thread):
    """`trainer.fit()` beside the main thread, which is free to print and to hear Ctrl-C."""

    def __init__(self, trainer: TorchTrainer) -> None:
        super().__init__(daemon=True)
        self._trainer = trainer
        self.error: BaseException | None = None

    def run(self) -> None:
        """Train; a failure is kept for the main thread."""
        try:
            self._trainer.fit()
        except (ray.train.TrainingFailedError, ray.exceptions.RayError) as error:
            self.error = error
