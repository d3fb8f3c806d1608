"""Launching: the only file that imports Ray Train.

In: a configuration, on the driver. Out: a trained model's last checkpoint and its MLflow run.

The driver checks, prepares the corpus, decides where to start, and then listens: rank 0 sends metrics through a small
actor (`ray.train.report` would hold up every worker at each call), and the driver shows and logs them. Checkpoints are
not reported to Ray Train either: they are verified, outlive a launch, and are found without Ray (see checkpoint.py).
"""

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
import torch
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from reformer_dist import tracking
from reformer_dist.cli import JobFailed
from reformer_dist.config import Config
from reformer_dist.data.loader import batches_from
from reformer_dist.data.prepare import plan_preparation
from reformer_dist.ray_session import ray_session
from reformer_dist.training import checkpoint, checks, failures
from reformer_dist.training.progress import Terminal
from reformer_dist.training.results import keep_results
from reformer_dist.training.resume import decide
from reformer_dist.training.worker import Message, Work, work

POLL_SECONDS = 0.2


@dataclass(frozen=True)
class RunResult:
    """What a training leaves.

    Attributes:
        run_id: MLflow run.
        metrics: last value of each metric of this launch.
        checkpoint: folder or URL of the last checkpoint.
        tracking_uri: where MLflow keeps the run.
        url_hint: how to look at the run.
    """

    run_id: str
    metrics: dict[str, float]
    checkpoint: str
    tracking_uri: str
    url_hint: str


def launch(config: Config, *, parent_run: str | None = None) -> RunResult:
    """Train as the configuration says, from its own last checkpoint if there is one (`train.resume`).

    Args:
        config: the configuration.
        parent_run: MLflow run that this one is part of.

    Raises:
        ConfigError: a mistake of the user; all that can be known before is found before a worker is taken.
        JobFailed: the workers failed; one line with the cause and where the whole story is.
    """
    checks.check_config(config)
    tracking.check_reachable(tracking.tracking_uri(config))
    preparation = plan_preparation(config.data, config.train.storage)
    joins = ray.is_initialized() or "RAY_ADDRESS" in os.environ
    if not joins:
        checks.check_machine(config)
    with ray_session():
        if joins:
            checks.check_cluster(config, ray.cluster_resources())
        corpus = preparation.run()
        place = decide(config, corpus)
        run = tracking.start(config, parent_run=parent_run, run_id=place.run_id)
        try:
            with Terminal(config) as terminal:
                metrics = _train(Work(config, corpus, place.folder, place.start, run.id), run, terminal)
            path = checkpoint.newest(place.folder)
            assert path is not None, "the last step writes a checkpoint"
            keep_results(config, corpus, run, path)
        except BaseException as error:
            run.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            raise
        run.finish("FINISHED")
    return RunResult(run.id, metrics, path, run.uri, run.url_hint())


def _train(job: Work, run: tracking.Run, terminal: Terminal) -> dict[str, float]:
    """Run the workers to their end, showing and logging what they send; returns the last value of each metric."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    channel = Channel.options(scheduling_strategy=here).remote()
    fit = _Fit(_trainer(job, channel))
    last: dict[str, float] = {}
    for message in _messages(channel, fit):
        match message:
            case str():
                terminal.line(message)
            case int():
                terminal.restart(message)
            case FloatingPointError():
                raise JobFailed(str(message))
            case (step, metrics):
                terminal.metrics(step, metrics)
                run.log(step, metrics)
                last |= metrics
    if fit.error is not None:
        raise JobFailed(failures.explain(fit.error, job.folder))
    return last


def _messages(channel: Any, fit: "_Fit") -> Iterator[Message]:
    """What workers put into the channel, until the trainer has ended and everything is out."""
    fit.start()
    ended = False
    while not ended:
        fit.join(POLL_SECONDS)
        ended = not fit.is_alive()
        yield from ray.get(channel.drain.remote())


def _trainer(job: Work, channel: Any) -> TorchTrainer:
    config = job.config
    storage, _, name = job.folder.rpartition("/")
    cpus = min(1.0, ray.cluster_resources().get("CPU", 1.0) / config.train.workers)
    return TorchTrainer(
        _worker,
        train_loop_config={"job": job, "channel": channel},
        torch_config=TorchConfig(timeout_s=int(config.parallel.timeout_seconds)),
        scaling_config=ray.train.ScalingConfig(
            num_workers=config.train.workers,
            use_gpu=config.train.use_gpu,
            resources_per_worker={"CPU": int(cpus * 1000) / 1000} | ({"GPU": 1} if config.train.use_gpu else {}),
        ),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=storage,
            failure_config=ray.train.FailureConfig(max_failures=config.train.max_failures),
            callbacks=[_Failures(channel)],
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
        datasets={"train": _no_rows},
        dataset_config=BatchesOfWorker(job),
    )


def _worker(arguments: dict[str, Any]) -> None:
    """What Ray Train runs in each worker, with torch.distributed initialised."""
    job: Work = arguments["job"]
    cores = (os.cpu_count() or 1) // ray.train.get_context().get_local_world_size()
    torch.set_num_threads(job.config.train.threads or max(1, cores))
    channel = arguments["channel"]
    work(job, get_device(), lambda: batches_from(ray.train.get_dataset_shard("train")), channel.put.remote)
    ray.get(channel.put.remote(""))  # returns when every message before it has arrived


class BatchesOfWorker(ray.train.DataConfig):
    """Gives each worker the batches of its own data group and shard instead of a part of one dataset."""

    def __init__(self, job: Work) -> None:
        super().__init__()
        self._job = job

    def configure(self, datasets: Any, world_size: int, *_: Any, **__: Any) -> list[dict[str, Any]]:
        """The iterator of each rank; called at every start of the workers, when rank 0 asks for its own."""
        return [{"train": self._job.batches(rank).iterator()} for rank in range(world_size)]


def _no_rows() -> Any:
    """Stands for the dataset that Ray Train expects and `BatchesOfWorker` replaces."""
    return ray.data.from_items([])


@ray.remote(num_cpus=0)
class Channel:
    """Messages from the workers to the driver, in order."""

    def __init__(self) -> None:
        self._messages: list[Message] = []

    def put(self, message: Message) -> None:
        """Add a message; an empty text is none."""
        if message != "":
            self._messages.append(message)

    def drain(self) -> list[Message]:
        """All messages since the last call."""
        messages, self._messages = self._messages, []
        return messages


class _Failures(ray.train.UserCallback):
    """Tells the driver of failed workers as soon as Ray Train knows."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        rank, error = failures.first_cause(worker_exceptions)
        self._channel.put.remote(f"worker {rank} failed: {failures.one_line(error)}")


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
