"""Loss and gradients of an encoder-decoder whose source and target are sharded equal one process's, by every exchange."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from reformer_dist import Config, EncoderDecoder
from reformer_dist.model.encoder_decoder import SourceTokens
from reformer_dist.parallel.parallelize import parallelize
from reformer_dist.parallel.topology import make_topology
from tests.parallel.test_sequence_shards import BATCH, VOCABULARY, make_config, shard_of
from tests.ranks import run_ranks


def _config(shards: int, lengths: tuple[int, int], parallel: dict[str, Any] | None = None, **model: Any) -> Config:
    """With a target and a source of these lengths."""
    layers = {"layers": "local,lsh", "encoder_layers": "lsh,local", "cross_rotary": True, **model}
    config = make_config(shards, lengths[0], parallel, **layers)
    return config.model_copy(update={"data": config.data.model_copy(update={"source_length": lengths[1]})})


def _packed(length: int, shares: tuple[float, ...], seed: int) -> dict[str, Tensor]:
    """Documents that end at these shares of a sequence, and padding."""
    ends = torch.tensor([round(share * length) for share in shares])
    places = torch.arange(length)
    documents = torch.searchsorted(ends, places, right=True)
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), ends])[documents]
    is_padding = documents == len(ends)
    tokens = torch.randint(VOCABULARY, (BATCH, length), generator=torch.Generator().manual_seed(seed))
    return {
        "tokens": tokens,
        "positions": (places - starts).masked_fill(is_padding, 0).repeat(BATCH, 1),
        "documents": documents.masked_fill(is_padding, -1).repeat(BATCH, 1),
    }


def loss_and_gradients(config: Config) -> tuple[float, dict[str, Tensor]]:
    """Over all ranks: the summed loss and the summed gradients."""
    topology = make_topology(config)
    model = EncoderDecoder(config.model).double().train()
    parallelize(model, topology)
    place, fill = (topology.shard, topology.sequence_shards), {"tokens": 0, "positions": 0, "documents": -1}
    target, source = (
        {name: shard_of(x, *place, fill[name]) for name, x in _packed(*drawn).items()}
        for drawn in (
            (config.data.sequence_length, (0.3, 0.5, 0.9), 1),
            (config.data.longest_source, (0.6, 0.7, 0.95), 2),
        )
    )
    labels = torch.where(target["documents"] > 0, (target["tokens"] * 7 + 3) % VOCABULARY, -100)
    first = topology.shard * source["tokens"].shape[1]
    loss, _ = model.loss(
        SourceTokens(source["tokens"], source["positions"], source["documents"], first),
        labels=labels,
        **target,
        step=3,
        first_row=5,
        first_position=topology.shard * target["tokens"].shape[1],
    )
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    total = loss.detach()
    if topology.world_size > 1:
        for x in (total, *gradients.values()):
            dist.all_reduce(x)
    return total.item(), gradients


@pytest.mark.parametrize("cross", ["full", "lsh"])
@pytest.mark.parametrize(
    ("shards", "lengths", "parallel"),
    [
        (2, (47, 64), {"attention": "heads"}),
        (3, (50, 31), {"attention": "buckets"}),
        (4, (47, 90), {"attention": "both", "head_shards": 2}),
    ],
    ids=str,
)
def test_shards_equal_one_process(shards: int, lengths: tuple[int, int], parallel: dict[str, Any], cross: str) -> None:
    layers = {"layers": "lsh,full", "encoder_layers": "full,lsh"} if parallel["attention"] == "heads" else {}
    loss, expected = loss_and_gradients(_config(1, lengths, cross_attention=cross, **layers))
    assert min(gradient.abs().max() for gradient in expected.values()) > 0
    config = _config(shards, lengths, parallel, cross_attention=cross, **layers)
    for found, gradients in run_ranks(loss_and_gradients, shards, config):
        assert found == pytest.approx(loss, rel=1e-12)
        assert gradients.keys() == expected.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, expected[name], rtol=1e-10, atol=1e-10, msg=name)
