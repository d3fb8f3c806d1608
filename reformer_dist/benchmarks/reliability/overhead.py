"""What does a job cost beside its training: until its first step, at every step, and when it loses a worker?

In: a size. Out: a table of seconds, by the parts that can be told apart from outside; tokens a second of the job and of
a bare loop of the same model; seconds from the kill of a worker to the next new step.

The corpus is prepared before, by a first job that is not measured and fills the system's caches as well. Jobs are started
as a user starts them. A first step counts as done when the job prints its line.
"""

import csv
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median
from typing import Any, Literal

from reformer_dist import checkpoints
from reformer_dist.benchmarks.reliability.bare_loop import STEPS_BEFORE, bare_tokens_per_second
from reformer_dist.benchmarks.reliability.jobs import Job
from reformer_dist.benchmarks.reliability.trainings import MODEL, write_documents
from reformer_dist.tracking.client import read_history


@dataclass(frozen=True)
class Size:
    """How large the trainings are.

    Attributes:
        options: the model, the data and the steps of a job that is only to start and lose a worker.
        steps: of the job whose speed is measured, and of the bare loop.
        log_every: steps between two of their measurements.
        turns: jobs and loops, by turns.
        workers: of the jobs that are started.
    """

    options: Mapping[str, object]
    steps: int
    log_every: int
    turns: int
    workers: tuple[int, ...]


_DEMO = {
    "data.sources": "stdlib",
    "data.sequence_length": 2048,
    "model.embed_dim": 128,
    "model.num_heads": 4,
    "model.feed_forward_dim": 512,
    "model.layers": "local,lsh,local,lsh",
    "model.positions": "none",
    "model.max_length": 4096,
    "model.num_hashes": 2,
    "model.lsh_window": 64,
    "model.local_window": 64,
    "train.batch_size": 1,
    "train.steps": 40,
}
"""The model of jobs/configs/demo.yaml."""
_TINY = {f"model.{name}": value for name, value in MODEL.items()} | {
    "data.sequence_length": 256,
    "train.batch_size": 4,
    "train.steps": 60,
}
_SHORT_END = {"train.validation_sequences": 4, "tracking.sample_tokens": 0}
SIZES = {
    "small": Size(_TINY, steps=34, log_every=5, turns=1, workers=(1,)),
    "paper": Size(_DEMO, steps=84, log_every=20, turns=2, workers=(1, 2)),
}
CHECKPOINT_EVERY = 5
Row = tuple[str, float]
"""What it is, and its seconds, tokens a second or share."""


def run(size: Literal["small", "paper"], output: Path) -> None:
    """Print the table and write overhead-SIZE.csv into `output`."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for row in measured(SIZES[size], Path(folder)):
            rows.append(row)
            print(f"{row[0]:<52}{row[1]:>12,.2f}", flush=True)
    output.mkdir(parents=True, exist_ok=True)
    path = output / f"overhead-{size}.csv"
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([("what", "value"), *rows])
    print(path)


def measured(size: Size, folder: Path) -> Iterator[Row]:
    """The rows of the table, as they are known."""
    write_documents(folder, Random(0))
    options = {"data.sources": folder / "text", "train.storage": folder / "runs"} | _SHORT_END | dict(size.options)
    Job(options | {"train.run_name": "before", "train.steps": 1}).finish()
    for workers in size.workers:
        yield from _started_and_killed(options | {"train.run_name": f"start-{workers}"}, workers)
    yield from _steps(options | {"train.steps": size.steps, "train.log_every": size.log_every}, size.turns)


def _started_and_killed(options: Mapping[str, object], workers: int) -> Iterator[Row]:
    """The parts of a start, and of going on without a worker."""
    name = f"{workers} worker{'s' * (workers > 1)}"
    grid = {"train.workers": workers, "parallel.sequence_shards": workers}
    often = {"train.checkpoint_every": CHECKPOINT_EVERY, "train.validate_every": 10**6}
    job = Job({**options, **grid, **often})
    ready = job.time_of("attention of")
    first = job.time_of("step 1/")
    ray = job.start_of(job.processes("raylet")[0])
    begun = max(ray, *map(job.start_of, job.processes("ray::RayTrainWorker")))
    yield f"{name}: until Ray is started (imports, preflight)", ray - job.started
    yield f"{name}: until all workers' processes are (Ray, MLflow)", begun - ray
    yield f"{name}: until the model is ready (imports, DeepSpeed)", ready - begun
    yield f"{name}: the first step", first - ready
    yield f"{name}: from the command to the first step", first - job.started
    run = Path(str(options["train.storage"])) / str(options["train.run_name"]) / "1"
    job.wait_until(lambda: checkpoints.newest_step(str(run)) > 0)
    (victim, *_) = job.processes("ray::RayTrainWorker")
    killed = time.time()
    victim.kill()
    told = job.time_of("worker ", killed)
    again = job.time_of("continuing from step", told)
    step = job.time_of("step ", again)
    yield f"{name}: from the kill until it is noticed", told - killed
    yield f"{name}: until the model is ready again", again - told
    yield f"{name}: the next step", step - again
    yield f"{name}: from the kill to the next step", step - killed
    job.finish()


def _steps(options: Mapping[str, object], turns: int) -> Iterator[Row]:
    """Tokens a second of jobs and of bare loops, by turns; medians."""
    cores = os.cpu_count() or 1
    values: dict[str, Any] = {**options, "train.workers": 1, "train.threads": cores, "optimizer.name": "adamw"}
    values |= {"train.validate_every": 10**6, "train.checkpoint_every": 10**6}
    values |= {name: str(values[name]) for name in ("data.sources", "train.storage")}
    jobs, loops = [], []
    for turn in range(turns):
        values["train.run_name"] = f"speed-{turn}"
        loops.append(bare_tokens_per_second(values))
        Job(values).finish()
        jobs.append(speed_of(Path(values["train.storage"]), f"speed-{turn}"))
    yield f"tokens a second of a bare loop, {cores} threads", median(loops)
    yield "tokens a second of a job of one worker", median(jobs)
    yield "the job's as a share of the loop's", median(job / loop for job, loop in zip(jobs, loops, strict=True))


def speed_of(storage: Path, run_name: str) -> float:
    """The median of a run's measurements, as MLflow has them, but for those of the first steps."""
    state = checkpoints.read_state(checkpoints.latest(str(storage), run_name))
    points = read_history(f"sqlite:///{storage}/mlflow.db", state.run_id, "train/tokens_per_second")
    return median(value for step, value in points if step > 2 * STEPS_BEFORE)
