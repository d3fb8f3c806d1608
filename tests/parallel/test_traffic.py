"""What sharded attention sends is what docs/parallelism.md says, and no worker ever holds a whole sequence."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from reformer_dist import Config, ReformerLM
from reformer_dist.model.budget import Budget
from reformer_dist.parallel.parallelize import parallelize
from reformer_dist.parallel.topology import make_topology
from tests.parallel.test_sequence_shards import make_config
from tests.ranks import run_ranks

LENGTH = 2048
EMBED = 128
FLOAT = 4


def _config(shards: int, layer: str, attention: str, **changes: Any) -> Config:
    """One attention layer, so that all traffic is its; embeddings as small as those of positions, so that hashes spread."""
    small = {"embed_dim": EMBED, "num_heads": 4, "feed_forward_dim": 8, "max_length": LENGTH, "num_hashes": 4}
    small |= {"embedding_std": 0.02, "convolution": 0}
    dropout = {"attention_dropout": 0.0, "hidden_dropout": 0.0}
    parallel = {"attention": attention}
    return make_config(
        shards, LENGTH, parallel, layers=layer, num_buckets=16, local_window=16, **{**small, **dropout, **changes}
    )


class _Largest(TorchDispatchMode):
    """Watches every operation for the largest tensor that it makes."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(x, Tensor):
                self.elements = max(self.elements, x.untyped_storage().nbytes() // x.element_size())
        return result


def _step(config: Config, skewed: bool, **limits: int) -> tuple[list[int], int, float]:
    """Bytes sent by the forward pass and by the backward pass, the largest tensor's elements; limits are the budget's."""
    topology = make_topology(config)
    model = ReformerLM(config.model, replace(Budget.of(config.model), **limits))
    traffic = parallelize(model, topology)
    part = LENGTH // topology.sequence_shards
    generator = torch.Generator().manual_seed(topology.shard)
    tokens = torch.randint(19, (1, part), generator=generator)
    if skewed:
        tokens.zero_()
        model.positions.requires_grad_(False)
        for table in model.positions.parameters():
            table.zero_()
    with _Largest() as largest:
        loss, _ = model.loss(tokens, tokens, first_position=topology.shard * part)
        forward = traffic.bytes_sent
        loss.backward()
    total = torch.tensor([forward, traffic.bytes_sent - forward])
    dist.all_reduce(total)
    return total.tolist(), largest.elements, traffic.seconds_waiting


@pytest.mark.parametrize("shards", [2, 4])
def test_heads_send_three_values_a_token_and_feature(shards: int) -> None:
    forward, backward = run_ranks(_step, shards, _config(shards, "lsh", "heads"), False)[0][0]
    others = (shards - 1) / shards
    assert forward == pytest.approx(3 * LENGTH * EMBED * FLOAT * others, rel=0.05)
    assert backward == pytest.approx(6 * LENGTH * EMBED * FLOAT * others, rel=0.05)  # the replay, and the gradients


def _step_without_keeping(config: Config) -> tuple[list[int], int, float]:
    """As above, as sequences do it whose tokens are too many to be kept for the backward pass."""
    return _step(config, False, kept_elements=1)


@pytest.mark.parametrize("shards", [2, 4])
def test_buckets_send_three_values_a_round_token_and_feature(shards: int) -> None:
    config = _config(shards, "lsh", "buckets")
    a_round = LENGTH * EMBED * FLOAT * (shards - 1) / shards
    forward, backward = run_ranks(_step, shards, config, False)[0][0]
    assert forward == pytest.approx(3 * 4 * a_round, rel=0.05)
    assert backward == pytest.approx((3 + 3) * 4 * a_round, rel=0.05)  # the replay, and the gradients
    forward, backward = run_ranks(_step_without_keeping, shards, config)[0][0]
    assert forward == pytest.approx(3 * 4 * a_round, rel=0.05)
    assert backward == pytest.approx((3 + 5) * 4 * a_round, rel=0.05)


@pytest.mark.parametrize("exchange", ["heads", "buckets"])
def test_local_attention_sends_a_window_to_a_neighbour(exchange: str) -> None:
    forward, backward = run_ranks(_step, 2, _config(2, "local", exchange), False)[0][0]
    assert forward == 15 * EMBED * FLOAT  # of the stream
    assert backward == 2 * forward  # the replay, and gradients


@pytest.mark.parametrize(("layer", "exchange"), [("local", "heads"), ("full", "heads"), ("lsh", "buckets")])
def test_a_convolution_sends_its_reach_to_a_neighbour(layer: str, exchange: str) -> None:
    """For attention and feed-forward alike: before it of the stream, and in the replay again, with gradients."""
    without, with_four = (
        run_ranks(_step, 2, _config(2, layer, exchange, convolution=width, hash_seed=0), False)[0][0]
        for width in (0, 4)
    )
    more = [four - none for four, none in zip(with_four, without, strict=True)]
    if layer != "lsh":  # whose buckets are others
        assert more == [2 * 3 * EMBED * FLOAT, 2 * 2 * 3 * EMBED * FLOAT]
    assert sum(with_four) < 1.05 * sum(without) + 6 * 3 * EMBED * FLOAT


def test_next_values_send_one_token_to_a_neighbour() -> None:
    own, of_next = (
        run_ranks(_step, 2, _config(2, "lsh", "heads", lsh_values=values), False)[0][0] for values in ("own", "next")
    )
    assert [more - some for more, some in zip(of_next, own, strict=True)] == [EMBED * FLOAT, 2 * EMBED * FLOAT]


@pytest.mark.parametrize("skewed", [False, True])
def test_no_worker_holds_the_whole_sequence(skewed: bool) -> None:
    """No tensor of a step is larger than all that the backward pass may send of a shard, all tokens in one bucket or not.

    That is queries-keys, values, output gradients and two statistics for each of its tokens, and again for those in a
    halo. It shrinks with the shard, so that at four workers it is below one stream of the whole sequence.
    """
    shards, num_heads, window = 4, 4, 6
    config = _config(shards, "local,lsh", "buckets")
    assert (config.model.num_heads, config.model.lsh_window) == (num_heads, window)
    tokens = LENGTH // shards + (shards - 1) * window
    largest = max(largest for _, largest, _ in run_ranks(_step, shards, config, skewed))
    assert largest <= tokens * (3 * EMBED + 2 * num_heads)
    assert largest < LENGTH * EMBED
