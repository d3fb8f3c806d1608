"""Does it learn? The duplication task of Kitaev et al. 2020, section 5, trained and evaluated with different attention.

In: a size. Out: their Table 2 and the learning curves, for LSH attention in `window` and in `chunked` mode.

A sequence is 0 w 127 w, with w of random symbols 1..126; only the second w is scored, which is the objective `copy`. Copying
takes one look far back at every token, which is what LSH attention could miss: a look succeeds where query and key share a
bucket in some round. All trainings are those of jobs/train.py, and all evaluations those of jobs/evaluate.py.
"""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import torch

from reformer_dist.benchmarks.learning import duplication_report
from reformer_dist.benchmarks.learning.duplication_report import MODES, TRAINED_WITH, Point, Score, label
from reformer_dist.benchmarks.learning.duplication_task import SIZES, Size, attention, keys_seen, write_documents
from reformer_dist.config import load_config
from reformer_dist.ray_session import ray_session
from reformer_dist.scoring import evaluation

SYMBOLS = "".join(map(chr, range(1, 127)))
SEPARATOR = "\x7f"
"""Stands between the two words. In the paper it is what a sequence begins with, too, and there is one symbol more; here no
document holds the token that marks its beginning."""
EVALUATED_WITH = (0, 8, 4, 2, 1)
THE_PAPERS: dict[str, Any] = {
    "rotary": False,
    "convolution": 0,
    "lsh_values": "own",
    "activation": "gelu",
    "embedding_std": 0.02,
}
"""What the paper's model has, or lacks, unlike ours by default."""


def run(size_name: Literal["small", "paper"], output: Path) -> None:
    """Train with full attention and 4, 2 and 1 hash rounds in both modes, evaluate each with full and 8, 4, 2, 1 rounds.

    Prints the tables; writes duplication-SIZE.csv, duplication-SIZE-curves.csv and duplication-SIZE.png into `output`.
    """
    size, start = SIZES[size_name], time.monotonic()
    scores: list[Score] = []
    points: list[Point] = []
    with prepared(size) as folder:
        for seed in size.seeds:
            for modes, rounds in trainings():
                checkpoint, curve = train(folder, size, modes[0], rounds, seed)
                for mode in modes:
                    points += [Point(mode, rounds, seed, *values) for values in curve]
                    found = evaluate(folder, size, mode, checkpoint)
                    scores += [Score(mode, rounds, n, seed, accuracy) for n, accuracy in found]
                _tell(
                    f"seed {seed}, {label(rounds) if rounds == 0 else f'{modes[0]} {label(rounds)}'}", curve[-1], start
                )
    title = f"length {size.length}, up to {size.keys} keys a round"
    print(duplication_report.tables(scores, points, title))
    seen = ", ".join(f"{mode} {keys_seen(size, mode):.1f} ({size.num_buckets(mode)} buckets)" for mode in MODES)
    print(f"\nKeys that a scored token sees in a round, on average: {seen}")
    for path in duplication_report.write(output, f"duplication-{size_name}", scores, points, title):
        print(path)


def _tell(trained: str, last: tuple[int, float, float], start: float) -> None:
    step, loss, accuracy = last
    minutes = (time.monotonic() - start) / 60
    print(f"{trained}: step {step}, loss {loss:.3f}, accuracy {accuracy:.1%} ({minutes:.1f} min)")


def trainings() -> Iterator[tuple[tuple[str, ...], int]]:
    """(modes to evaluate in, rounds) of every training; full attention is the same in both modes and trained once."""
    for rounds in TRAINED_WITH:
        yield from [(MODES, rounds)] if rounds == 0 else [((mode,), rounds) for mode in MODES]


@contextmanager
def prepared(size: Size) -> Iterator[Path]:
    """A folder with the documents of a size, which also takes what trainings store, and Ray for all of them."""
    with tempfile.TemporaryDirectory(prefix="duplication-") as folder, ray_session():
        write_documents(Path(folder) / "documents.jsonl", size.length, SYMBOLS, SEPARATOR)
        yield Path(folder)


def train(
    folder: Path, size: Size, mode: str, rounds: int, seed: int, num_buckets: int | None = None
) -> tuple[str, list[tuple[int, float, float]]]:
    """A training's checkpoint and its curve: (step, loss over the steps since the last point, held-out accuracy)."""
    from reformer_dist.tracking import client
    from reformer_dist.training.launcher import launch

    config = load_config(None, _settings(folder, size, mode, rounds, seed, num_buckets))
    with (folder / "trainings.log").open("a") as log, redirect_stdout(log):
        result = launch(config)
    losses = [loss for _, loss in client.read_history(result.tracking_uri, result.run_id, "train/loss")]
    accuracies = client.read_history(result.tracking_uri, result.run_id, "validation/accuracy")
    curve = [(step, fmean(losses[max(0, step - size.evaluate_every) : step]), found) for step, found in accuracies]
    return result.checkpoint, curve


def evaluate(folder: Path, size: Size, mode: str, checkpoint: str) -> Iterator[tuple[int, float]]:
    """(rounds, held-out accuracy) of the same weights under full attention and each number of rounds."""
    for rounds in EVALUATED_WITH:
        fields = {
            "model": attention(size, mode, rounds),
            "train": {"storage": str(folder / "runs"), "use_gpu": torch.cuda.is_available()},
            "evaluation": {"checkpoint": checkpoint, "max_sequences": size.test_sequences},
        }
        yield rounds, evaluation.evaluate(load_config(None, fields)).metrics["accuracy"]


def model_fields(size: Size, seed: int, kind: dict[str, Any]) -> dict[str, Any]:
    """ModelConfig fields of the paper's model at a size, with the fields that say which attention it has."""
    return {
        "embed_dim": size.embed_dim,
        "num_heads": size.num_heads,
        "feed_forward_dim": size.embed_dim,
        "layers": ("lsh",),
        "max_length": size.length,
        "positions": "learned",
        "seed": seed,
        **THE_PAPERS,
        **kind,
    }


def optimizer_fields(size: Size) -> dict[str, Any]:
    """OptimizerConfig fields of all trainings of a size."""
    return {
        "name": "adamw",
        "learning_rate": size.learning_rate,
        "warmup_steps": size.warm_up,
        "final_fraction": 0.05,
        "weight_decay": 0.0,
    }


def _settings(
    folder: Path, size: Size, mode: str, rounds: int, seed: int, num_buckets: int | None
) -> dict[str, dict[str, Any]]:
    """The configuration of a training."""
    return {
        "data": {"sources": (str(folder / "documents.jsonl"),), "sequence_length": size.length},
        "objective": {"name": "copy"},
        "model": model_fields(size, seed, attention(size, mode, rounds, num_buckets)),
        "optimizer": optimizer_fields(size),
        "train": {
            "use_gpu": torch.cuda.is_available(),
            "steps": size.steps,
            "batch_size": size.batch_size,
            "micro_batch_size": size.batch_size,
            "seed": seed,
            "validate_every": size.evaluate_every,
            "validation_sequences": max(1, size.test_sequences // 4),
            "checkpoint_every": size.steps,
            "resume": "none",
            "storage": str(folder / "runs"),
            "run_name": f"{mode}-{rounds}-{num_buckets or 'default'}-{seed}",
        },
        "tracking": {"sample_tokens": 0},
    }
