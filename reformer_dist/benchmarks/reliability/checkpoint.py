"""How long does a training step wait for a checkpoint, and how long does the checkpoint take?

In: a size. Out: a table of checkpoints, one line each: seconds that the step waits, which copies its weights and optimizer
state, seconds until the checkpoint is complete on the disk, and the first as a share of the second.

One worker, whose steps go on while a checkpoint is being written, as in a training.
"""

import csv
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist

from reformer_dist import checkpoints
from reformer_dist.checkpoints.writing import Writer
from reformer_dist.config import Config, load_config
from reformer_dist.data.feeding.batch import Batch
from reformer_dist.data.tokenizers.choice import make_tokenizer
from reformer_dist.model.reformer import ReformerLM
from reformer_dist.objectives.choice import make_objective
from reformer_dist.training.engine.engine import Engine

WIDTHS = {"small": 512, "paper": 1024}
LENGTH = 256
CHECKPOINTS = 6


@dataclass(frozen=True)
class Times:
    """Seconds of one checkpoint: of the step's wait, and of all of it."""

    wait: float
    whole: float

    @property
    def share(self) -> float:
        """The wait as a share of the whole."""
        return self.wait / self.whole


def run(size: Literal["small", "paper"], output: Path) -> None:
    """Print the table and write checkpoint-SIZE.csv into `output`."""
    config = _config(WIDTHS[size])
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", f"file://{folder}/store", timedelta(seconds=60), 1, 0)
        os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
        times = list(_checkpoints(config, f"{folder}/run"))
        dist.destroy_process_group()
    print(f"{'wait s':>8}{'whole s':>9}{'share':>8}")
    for each in times:
        print(f"{each.wait:>8.3f}{each.whole:>9.2f}{each.share:>8.1%}")
    print(f"median share after the first, which takes its memory: {statistics.median(t.share for t in times[1:]):.1%}")
    output.mkdir(parents=True, exist_ok=True)
    path = output / f"checkpoint-{size}.csv"
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([("wait", "whole"), *((each.wait, each.whole) for each in times)])
    print(path)


def _config(width: int) -> Config:
    model = {"embed_dim": width, "feed_forward_dim": 4 * width, "num_heads": 8, "max_length": LENGTH}
    return load_config(None, {"model": model, "data.sequence_length": LENGTH, "train.validate_every": 1})


def _checkpoints(config: Config, folder: str) -> Iterator[Times]:
    """A step and a checkpoint, CHECKPOINTS times over; further steps until it is complete."""
    model = ReformerLM(config.model)
    print(f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.1f} million weights")
    engine = Engine(model, make_objective(config.objective), config, torch.device("cpu"))
    writer = Writer(folder, 2, make_tokenizer("bytes"), keep_best=False, timeout=600.0)
    weights: dict[str, torch.Tensor] = {}
    moments: dict[str, torch.Tensor] = {}
    step = 0
    for _ in range(CHECKPOINTS):
        engine.train_step([_batch()], step)
        step += 1
        start = time.perf_counter()
        writer.finish()
        engine.copy_weights(weights)
        engine.copy_state(moments)
        writer.save(_state(config, step), weights, moments, [])
        saved, wait = step, time.perf_counter() - start
        while checkpoints.newest_step(folder) < saved:
            engine.train_step([_batch()], step)
            step += 1
        yield Times(wait, time.perf_counter() - start)


def _batch() -> Batch:
    tokens_BT = torch.randint(256, (1, LENGTH + 1))
    positions_BT = torch.arange(LENGTH)[None]
    return Batch(tokens_BT[:, :-1], tokens_BT[:, 1:], positions_BT, torch.zeros_like(positions_BT))


def _state(config: Config, step: int) -> checkpoints.State:
    values: dict[str, Any] = {"tokenizer": "bytes", "corpus_hash": "", "run_id": "", "workers": 1, "zero_stage": 1}
    return checkpoints.State(step=step, config=config, **values)
