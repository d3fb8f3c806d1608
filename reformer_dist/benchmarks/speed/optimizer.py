"""What Muon adds to a training step: processor time that makes matrices orthogonal, and bytes that bring them together.

In: a size. Out: a table, a row for each number of workers and ZeRO stage, and a CSV file. Workers are processes of this
machine with a thread each; layers are local and LSH by turns, float32, a sequence for each worker.
"""

import csv
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Literal
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor

from reformer_dist.benchmarks.parallel.processes import Processes
from reformer_dist.config import Config, load_config
from reformer_dist.data.feeding.batch import Batch
from reformer_dist.model.reformer import ReformerLM
from reformer_dist.objectives.choice import make_objective
from reformer_dist.training.engine import muon
from reformer_dist.training.engine.engine import Engine

WIDTHS = {"small": 128, "paper": 512}
LENGTH = 4096
NUM_LAYERS = 6
NUM_STEPS = 3
GRIDS = [(1, 0), (2, 0), (2, 1), (2, 3)]
"""Workers, and their ZeRO stage."""
TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True)
class Cost:
    """A step's, of all workers together and in the mean over the steps."""

    workers: int
    zero_stage: int
    width: int
    length: int
    """Tokens that each worker reads."""
    cpu_seconds: float
    """Of the whole step."""
    orthogonal_seconds: float
    """Of `orthogonalize`."""
    largest_seconds: float
    """Of `orthogonalize`, on the worker that does most."""
    bytes_sent: float
    """Between the workers, to make matrices whole and to give results back."""
    matrix_bytes: int
    """Of all matrices."""


def run(size: Literal["small", "paper"], output: Path) -> None:
    """Print the table; write optimizer-SIZE.csv into `output`."""
    costs = [measure(*grid, WIDTHS[size], LENGTH) for grid in GRIDS]
    print(f"\n{table(costs)}")
    output.mkdir(parents=True, exist_ok=True)
    with (output / f"optimizer-{size}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(costs[0])))
        writer.writeheader()
        writer.writerows(asdict(cost) for cost in costs)


def measure(workers: int, zero_stage: int, width: int, length: int) -> Cost:
    """Steps of so many workers, after a first one that is not counted."""
    config = _config(workers, zero_stage, width, length)
    with Processes(workers, partial(_start, config), TIMEOUT) as processes:
        processes.call()
        taken = [processes.call() for _ in range(NUM_STEPS)]
    ours = [[sum(step[rank][part] for step in taken) / NUM_STEPS for part in range(3)] for rank in range(workers)]
    whole, orthogonal, sent = (sum(of_rank) for of_rank in zip(*ours, strict=True))
    largest = max(rank[1] for rank in ours)
    return Cost(workers, zero_stage, width, length, whole, orthogonal, largest, sent, _matrix_bytes(config))


def table(costs: Sequence[Cost]) -> str:
    """CPU-seconds of a step, the share that makes matrices orthogonal, and what is sent in matrices' sizes."""
    lines = [
        f"{'workers':>8}{'ZeRO':>6}{'width':>7}{'tokens':>8}{'CPU-s a step':>14}{'orthogonal':>12}{'share':>8}"
        f"{'of one at most':>16}{'MiB sent':>10}{'of matrices':>13}"
    ]
    lines += [
        f"{c.workers:>8}{c.zero_stage:>6}{c.width:>7}{c.length:>8,}{c.cpu_seconds:>14.2f}{c.orthogonal_seconds:>12.2f}"
        f"{c.orthogonal_seconds / c.cpu_seconds:>8.1%}{c.largest_seconds:>16.2f}"
        f"{c.bytes_sent / 2**20:>10.1f}{c.bytes_sent / c.matrix_bytes:>13.3f}"
        for c in costs
    ]
    return "\n".join(lines)


def _config(workers: int, zero_stage: int, width: int, length: int) -> Config:
    return load_config(
        None,
        {
            "model": {
                "embed_dim": width,
                "num_heads": 4,
                "feed_forward_dim": 4 * width,
                "layers": ("local", "lsh") * (NUM_LAYERS // 2),
                "max_length": length,
            },
            "data.sequence_length": length,
            "train": {"workers": workers, "batch_size": workers, "micro_batch_size": 1, "dtype": "float32"},
            "parallel.zero_stage": zero_stage,
            "optimizer.name": "muon",
        },
    )


def _matrix_bytes(config: Config) -> int:
    with torch.device("meta"):
        model = ReformerLM(config.model)
    return sum(weight.nbytes for weight in model.stack.parameters() if weight.ndim == 2)


def _start(config: Config) -> Callable[[], tuple[float, float, int]]:
    """In a process: an engine, and a step of it: its CPU-seconds, those of `orthogonalize`, and bytes sent."""
    rank, workers = str(dist.get_rank()), str(dist.get_world_size())
    os.environ.update(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=workers)
    torch.manual_seed(0)
    engine = Engine(ReformerLM(config.model), make_objective(config.objective), config, torch.device("cpu"))
    return partial(_step, engine, _batch(config, int(rank)))


def _batch(config: Config, rank: int) -> Batch:
    length = config.data.sequence_length
    generator = torch.Generator().manual_seed(rank)
    tokens_BT, labels_BT = torch.randint(config.model.vocab_size, (2, 1, length), generator=generator)
    positions_BT = torch.arange(length)[None]
    return Batch(tokens_BT, labels_BT, positions_BT, torch.zeros_like(positions_BT), first_row=rank)


def _step(engine: Engine, batch: Batch) -> tuple[float, float, int]:
    spent = 0.0

    def timed(matrix: Tensor) -> Tensor:
        nonlocal spent
        start = time.process_time()
        result = plain(matrix)
        spent += time.process_time() - start
        return result

    assert isinstance(engine.optimizer, muon.Muon)
    plain, before = muon.orthogonalize, _sent(engine.optimizer)
    start = time.process_time()
    with mock.patch.object(muon, "orthogonalize", timed):
        engine.train_step([batch], 0)
    return time.process_time() - start, spent, _sent(engine.optimizer) - before


def _sent(optimizer: muon.Muon) -> int:
    return optimizer.exchange.traffic.bytes_sent if optimizer.exchange else 0
