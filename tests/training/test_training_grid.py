"""Twenty steps give one curve and the same weights on every grid of workers.

By every exchange and ZeRO stage, for every objective and optimizer.
"""

import json
import os
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
import torch.distributed as dist

from reformer_dist import Config, load_config
from reformer_dist.data.feeding.loader import training_batches, validation_batches
from reformer_dist.data.preparing.corpus import Corpus
from reformer_dist.model.choice import make_model
from reformer_dist.objectives.choice import make_objective
from reformer_dist.parallel.parallelize import parallelize
from reformer_dist.parallel.topology import make_topology
from reformer_dist.training.engine.engine import Engine
from reformer_dist.training.loop import validate
from tests.corpora import prepare_here, random_documents, write_documents
from tests.ranks import run_ranks

STEPS = 20
TRAININGS: dict[str, dict[str, str]] = {
    "adamw": {},
    "masked": {"objective": "masked"},
    "spans": {"objective": "spans"},
    "muon": {"optimizer": "muon"},
    "pairs": {"objective": "pairs", "cross": "full"},
    "pairs by lsh": {"objective": "pairs", "cross": "lsh", "optimizer": "muon"},
}
"""Kinds of training, by their changes of the first."""


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Documents shorter and longer than a sequence, so that rows are packed and cut."""
    folder = tmp_path_factory.mktemp("grid")
    lengths = {f"{index:02}.bin": 7 + 13 * index for index in range(14)}
    return prepare_here(write_documents(folder / "source", random_documents(lengths)), folder / "runs")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Pairs of all lengths up to a sequence, so that some rows hold several and some one."""
    folder = tmp_path_factory.mktemp("pairs")
    words = ["-".join(f"{n * 37 % 101}" for n in range(index + 1)) for index in range(18)]
    lines = (json.dumps({"source": word[:74], "text": word[::-1][:60]}) + "\n" for word in words)
    (folder / "pairs.jsonl").write_text("".join(lines))
    return prepare_here(folder / "pairs.jsonl", folder / "runs", fields={"source": {}, "text": {}})


@pytest.fixture(scope="module")
def corpus_of(texts: Corpus, pairs: Corpus) -> Callable[[str], Corpus]:
    """What a kind of training reads."""
    return lambda kind: pairs if kind.startswith("pairs") else texts


def _config(
    workers: int,
    shards: int,
    stage: int,
    objective: str = "next_token",
    optimizer: str = "adamw",
    cross: str = "",
    keep: str = "nothing",
    **parallel: Any,
) -> Config:
    encoder = {"encoder_layers": "lsh,local", "cross_attention": cross, "max_source_length": 75} if cross else {}
    tree = {
        "objective": {"name": objective, "spans_sentinels": 1},
        "data": {"sequence_length": 61, **({"source_length": 75} if cross else {})},
        "model": {
            "embed_dim": 16,
            "num_heads": 4,
            "feed_forward_dim": 32,
            "layers": "local,lsh",
            "encoder_layers": "lsh,local" if objective == "spans" else (),
            "vocab_size": 257,
            "causal": objective != "masked",
            "max_length": 64,
            "num_buckets": 4,
            "keep": keep,
            "lsh_window": 8,
            "local_window": 8,
            "attention_dropout": 0.1,
            "hidden_dropout": 0.1,
            **encoder,
        },
        "parallel": {"sequence_shards": shards, "zero_stage": stage, **parallel},
        "train": {"workers": (workers, workers), "batch_size": 4, "steps": STEPS, "dtype": "float64"},
        "optimizer": {"name": optimizer, "warmup_steps": 3, "max_grad_norm": 0.5},
    }
    return load_config(None, tree).with_workers(workers)


def _curve(corpus: Corpus, config: Config) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Mean loss of every step, of a validation at the end and its accuracy, and rank 0's weights at the end."""
    rank = str(dist.get_rank())
    os.environ.update(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=str(dist.get_world_size()))
    topology = make_topology(config)
    model = make_model(config.model)
    parallelize(model, topology)
    objective = make_objective(config.objective)
    engine = Engine(model, objective, config, torch.device("cpu"))
    here = (corpus, config, objective, topology.data_group, topology.shard)
    losses = []
    for step, batches in enumerate(training_batches(*here)):
        result = engine.train_step(batches, step)
        dist.all_reduce(loss_sum := result[0].clone())
        losses.append(float(loss_sum / result[1]))
    held_out = validate(engine, validation_batches(*here, topology.data_groups))
    losses += [held_out["validation/loss"], held_out["validation/accuracy"]]
    weights: dict[str, torch.Tensor] = {}
    engine.copy_weights(weights)
    return losses, weights


@pytest.fixture(scope="module")
def alone(corpus_of: Callable[[str], Corpus]) -> Callable[[str], tuple[list[float], dict[str, torch.Tensor]]]:
    """What one process makes of each kind of training, once."""
    return cache(lambda kind: run_ranks(_curve, 1, corpus_of(kind), _config(1, 1, 0, **TRAININGS[kind]))[0])


@pytest.mark.parametrize(
    "kind", ["adamw", "muon", "pairs", "pairs by lsh"]
)  # what is masked at random would take longer
def test_the_curves_fall(alone: Callable[[str], tuple[list[float], dict[str, torch.Tensor]]], kind: str) -> None:
    losses, _ = alone(kind)
    assert losses[STEPS - 1] < losses[0] - 0.05


@pytest.mark.parametrize(
    ("kind", "workers", "shards", "stage", "parallel"),
    [
        ("adamw", 2, 1, 1, {}),
        ("adamw", 3, 1, 2, {}),  # groups of one, one and two sequences
        ("adamw", 2, 2, 0, {"attention": "heads"}),
        ("adamw", 2, 2, 3, {"attention": "buckets"}),
        ("adamw", 3, 3, 1, {"attention": "buckets", "keep": "attention"}),
        ("adamw", 4, 2, 2, {"attention": "buckets"}),
        ("adamw", 4, 2, 3, {"attention": "heads", "keep": "products"}),
        ("adamw", 4, 4, 2, {"attention": "both", "head_shards": 2}),
        ("masked", 2, 1, 1, {}),
        ("masked", 2, 2, 2, {"attention": "heads"}),
        ("masked", 4, 2, 3, {"attention": "buckets"}),
        ("spans", 2, 1, 1, {}),
        ("spans", 4, 2, 3, {"attention": "buckets"}),
        ("muon", 2, 1, 1, {}),
        ("muon", 2, 2, 0, {"attention": "heads"}),
        ("muon", 4, 2, 3, {"attention": "buckets"}),
        ("muon", 4, 4, 2, {"attention": "both", "head_shards": 2}),
        ("pairs", 2, 1, 1, {}),
        ("pairs", 3, 1, 2, {}),
        ("pairs", 4, 2, 3, {"attention": "heads", "keep": "products"}),
        ("pairs by lsh", 2, 2, 0, {"attention": "heads"}),
        ("pairs by lsh", 2, 2, 3, {"attention": "buckets"}),
        ("pairs by lsh", 4, 4, 2, {"attention": "both", "head_shards": 2, "keep": "streams"}),
    ],
)
def test_one_curve_on_every_grid(
    corpus_of: Callable[[str], Corpus],
    alone: Callable[[str], tuple[list[float], dict[str, torch.Tensor]]],
    kind: str,
    workers: int,
    shards: int,
    stage: int,
    parallel: dict[str, Any],
) -> None:
    config = _config(workers, shards, stage, **TRAININGS[kind], **parallel)
    losses, weights = run_ranks(_curve, workers, corpus_of(kind), config)[0]
    expected_losses, expected_weights = alone(kind)
    assert losses == pytest.approx(expected_losses, rel=1e-9)
    for name, value in expected_weights.items():
        torch.testing.assert_close(weights[name], value, rtol=0, atol=1e-7, msg=name)
