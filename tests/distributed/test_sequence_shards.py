"""Loss and gradients of a sharded sequence equal one process's, by every exchange."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from reformer_dist import Config, ReformerLM, load_config
from reformer_dist.parallel.parallelize import parallelize
from reformer_dist.parallel.topology import make_topology
from tests.distributed.harness import run_ranks

BATCH = 2
VOCABULARY = 19


def make_config(shards: int, length: int, parallel: dict[str, Any] | None = None, **model: Any) -> Config:
    tree = {
        "data": {"sequence_length": length},
        "parallel": {"sequence_shards": shards, **(parallel or {})},
        "train": {"workers": shards, "batch_size": BATCH},
        "model": {
            "vocab_size": VOCABULARY,
            "embed_dim": 24,
            "num_heads": 12,
            "feed_forward_dim": 40,
            "layers": "local,lsh,local,lsh",
            "max_length": 128,
            "num_hashes": 3,
            "num_buckets": 8,
            "lsh_window": 6,
            "local_window": 5,
            "feed_forward_chunk": 16,
            "loss_chunk": 10,
            "attention_dropout": 0.1,
            "hidden_dropout": 0.2,
            **model,
        },
    }
    return load_config(None, tree)


def _sequences(length: int) -> dict[str, Tensor]:
    """Two packed documents a sequence, padding behind them, and labels that leave whole shards unscored."""
    generator = torch.Generator().manual_seed(7)
    tokens, labels = torch.randint(VOCABULARY, (2, BATCH, length), generator=generator)
    labels[:, : length // 2 + 3] = -100
    documents = (torch.arange(length) > length // 3).long().repeat(BATCH, 1)
    documents[:, length - 4 :] = -1
    return {"tokens": tokens, "labels": labels, "documents": documents}


def shard_of(x: Tensor, shard: int, num_shards: int, fill: int) -> Tensor:
    """One worker's slice of whole sequences [B, T], padded so that all are equal."""
    part = -(-x.shape[1] // num_shards)
    padded = torch.nn.functional.pad(x, (0, part * num_shards - x.shape[1]), value=fill)
    return padded[:, shard * part : (shard + 1) * part]


def _loss_and_gradients(config: Config) -> tuple[float, int, dict[str, Tensor]]:
    """Over all ranks: the summed loss, the scored tokens and the summed gradients."""
    topology = make_topology(config)
    model = ReformerLM(config.model).double().train()
    parallelize(model, topology)
    length = config.data.sequence_length
    fill = {"tokens": 0, "labels": -100, "documents": -1}
    place = (topology.shard, topology.sequence_shards)
    shard = {name: shard_of(x, *place, fill[name]) for name, x in _sequences(length).items()}
    positions = shard_of(torch.arange(length).repeat(BATCH, 1), *place, 0)
    first_position = topology.shard * positions.shape[1]
    loss, count = model.loss(**shard, positions=positions, step=3, first_row=5, first_position=first_position)
    loss.backward()
    sums = [loss.detach(), count, *(p.grad for p in model.parameters() if p.grad is not None)]
    if topology.world_size > 1:
        for x in sums:
            dist.all_reduce(x)
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return sums[0].item(), int(sums[1]), gradients


def _check(shards: int, length: int, parallel: dict[str, Any], **model: Any) -> None:
    loss, count, expected = _loss_and_gradients(make_config(1, length, **model))
    config = make_config(shards, length, parallel, **model)
    for loss_sharded, count_sharded, gradients in run_ranks(_loss_and_gradients, shards, config):
        assert count_sharded == count
        assert loss_sharded == pytest.approx(loss, rel=1e-12)
        assert gradients.keys() == expected.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, expected[name], rtol=1e-10, atol=1e-10, msg=name)


SHAPES = [(2, 64), (2, 61), (3, 50), (4, 47)]


@pytest.mark.parametrize("mode", ["window", "chunked", "paper"])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("shards", "length"), SHAPES)
def test_heads_equal_one_process(shards: int, length: int, causal: bool, mode: str) -> None:
    _check(shards, length, {"attention": "heads"}, layers="local,lsh,full,lsh", causal=causal, lsh_mode=mode)


@pytest.mark.parametrize("changes", [{}, {"num_buckets": 1}, {"num_buckets": (4, 8), "num_hashes": 1}], ids=str)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("shards", "length"), SHAPES)
def test_buckets_equal_one_process(shards: int, length: int, causal: bool, changes: dict[str, Any]) -> None:
    _check(shards, length, {"attention": "buckets"}, causal=causal, **changes)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("length", "head_shards"), [(64, 2), (47, 2), (50, 4), (50, 1)])
def test_both_equal_one_process(length: int, head_shards: int, causal: bool) -> None:
    _check(4, length, {"attention": "both", "head_shards": head_shards}, causal=causal)


def test_a_failing_rank_is_an_error_and_not_a_hang() -> None:
    with pytest.raises(RuntimeError, match="does not divide"):
        run_ranks(_loss_and_gradients, 2, make_config(4, 64))
