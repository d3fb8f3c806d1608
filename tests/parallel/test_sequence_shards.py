"""Loss and gradients of a sharded sequence equal one process's, by every exchange."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from reformer_dist import Config, ReformerLM, load_config
from reformer_dist.model.attention.lsh import hash_health
from reformer_dist.model.backends.rules import window_rule
from reformer_dist.model.budget import Budget
from reformer_dist.parallel.buckets.routing import Router
from reformer_dist.parallel.collectives import Peers, Traffic
from reformer_dist.parallel.parallelize import parallelize
from reformer_dist.parallel.topology import make_topology
from tests.model.models import OPTIONS
from tests.ranks import run_ranks

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


def _sequences(length: int, padding: int) -> dict[str, Tensor]:
    """Two packed documents a sequence, padding behind them, and labels that leave whole shards unscored."""
    generator = torch.Generator().manual_seed(7)
    tokens, labels = torch.randint(VOCABULARY, (2, BATCH, length), generator=generator)
    labels[:, : length // 2 + 3] = -100
    documents = (torch.arange(length) > length // 3).long().repeat(BATCH, 1)
    documents[:, length - padding :] = -1
    return {"tokens": tokens, "labels": labels, "documents": documents}


def shard_of(x: Tensor, shard: int, num_shards: int, fill: int) -> Tensor:
    """One worker's slice of whole sequences [B, T], padded so that all are equal."""
    part = -(-x.shape[1] // num_shards)
    padded = torch.nn.functional.pad(x, (0, part * num_shards - x.shape[1]), value=fill)
    return padded[:, shard * part : (shard + 1) * part]


def loss_and_gradients(
    config: Config, dtype: torch.dtype = torch.float64, padding: int = 4, limits: Mapping[str, int] | None = None
) -> tuple[float, int, dict[str, Tensor]]:
    """Over all ranks: the summed loss, the scored tokens and the summed gradients; `limits` are of the budget."""
    topology = make_topology(config)
    model = ReformerLM(config.model, replace(Budget.of(config.model), **(limits or {}))).to(dtype).train()
    parallelize(model, topology)
    length = config.data.sequence_length
    fill = {"tokens": 0, "labels": -100, "documents": -1}
    place = (topology.shard, topology.sequence_shards)
    shard = {name: shard_of(x, *place, fill[name]) for name, x in _sequences(length, padding).items()}
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
    loss, count, expected = loss_and_gradients(make_config(1, length, **model))
    config = make_config(shards, length, parallel, **model)
    for loss_sharded, count_sharded, gradients in run_ranks(loss_and_gradients, shards, config):
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


@pytest.mark.parametrize("keep", ["nothing", "products"])
@pytest.mark.parametrize("attention", ["heads", "buckets"])
def test_a_model_of_other_parts_equals_one_process(attention: str, keep: str) -> None:
    _check(3, 50, {"attention": attention}, keep=keep, **OPTIONS)


def test_what_is_kept_is_of_each_exchange() -> None:
    """By both, tokens of one head are on two workers, and of the other on the other two."""
    _check(4, 47, {"attention": "both", "head_shards": 2}, keep="products,attention,streams,nothing")


def test_rotary_positions_of_chunked_modes_equal_one_process() -> None:
    modes = {"lsh_mode": "chunked", "local_mode": "chunked", "rotary": True, "lsh_rotary": True}
    _check(2, 61, {"attention": "heads"}, layers="local,lsh,full", **modes)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("attention", ["heads", "buckets"])
def test_local_windows_reach_over_several_shards(attention: str, causal: bool) -> None:
    """Shards of 12 tokens, windows of 30: every other worker lends some or all of its tokens."""
    _check(4, 47, {"attention": attention}, layers="local,local", local_window=30, causal=causal)


@pytest.mark.parametrize("reversible", [True, False])
def test_local_pieces_meet_at_the_edges_of_shards(reversible: bool) -> None:
    """Several pieces a shard, and plain autograd."""
    loss, _, expected = loss_and_gradients(make_config(1, 94, reversible=reversible, layers="local,lsh"))
    config = make_config(2, 94, reversible=reversible, layers="local,lsh")
    for loss_in_pieces, _, gradients in run_ranks(_in_pieces, 2, config):
        assert loss_in_pieces == pytest.approx(loss, rel=1e-12)
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, expected[name], rtol=1e-10, atol=1e-10, msg=name)


def _in_pieces(config: Config) -> tuple[float, int, dict[str, Tensor]]:
    """As above, with as few tokens at a time as local attention takes."""
    return loss_and_gradients(config, limits={"projected_tokens": 1})


def _in_head_groups(config: Config) -> tuple[float, int, dict[str, Tensor]]:
    """As above, with few heads at a time and short parts of their order, of which some are kept for the backward pass."""
    limits = {"exchanged_elements": 1, "routed_entries": 1, "routed_halos": 1, "kept_elements": 500}
    return loss_and_gradients(config, limits=limits)


@pytest.mark.parametrize(
    ("shards", "parallel"),
    [
        (3, {"attention": "heads"}),
        (2, {"attention": "buckets"}),
        (3, {"attention": "buckets"}),
        (4, {"attention": "both", "head_shards": 2}),
    ],
    ids=str,
)
@pytest.mark.parametrize("causal", [True, False])
def test_head_groups_equal_one_process(shards: int, parallel: dict[str, Any], causal: bool) -> None:
    """Long sequences are worked through a few heads, and parts of their order, at a time; none of it changes the result."""
    loss, _, expected = loss_and_gradients(make_config(1, 47, causal=causal))
    for loss_in_head_groups, _, gradients in run_ranks(
        _in_head_groups, shards, make_config(shards, 47, parallel, causal=causal)
    ):
        assert loss_in_head_groups == pytest.approx(loss, rel=1e-12)
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, expected[name], rtol=1e-10, atol=1e-10, msg=name)


@pytest.mark.parametrize("causal", [True, False])
def test_readable_kernel_equals_one_process(causal: bool) -> None:
    _check(3, 50, {"attention": "buckets"}, causal=causal, attention_kernel="plain")


@pytest.mark.parametrize("attention", ["heads", "buckets"])
def test_workers_with_nothing_but_padding(attention: str) -> None:
    """Two of four hold no token that counts, and no label is beyond them; nothing becomes NaN."""
    loss, count, expected = loss_and_gradients(make_config(1, 47), padding=25)
    config = make_config(4, 47, {"attention": attention})
    for loss_sharded, count_sharded, gradients in run_ranks(loss_and_gradients, 4, config, torch.float64, 25):
        assert (loss_sharded, count_sharded) == (pytest.approx(loss, rel=1e-12), count)
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, expected[name], rtol=1e-10, atol=1e-10, msg=name)


@pytest.mark.parametrize("attention", ["heads", "buckets"])
def test_float32_differs_by_rounding_alone(attention: str) -> None:
    """One worker's gradients are within 2e-5 of the largest element of those of float64, four workers' within 5e-5."""
    loss, _, expected = loss_and_gradients(make_config(1, 47))
    config = make_config(4, 47, {"attention": attention})
    loss_sharded, _, gradients = run_ranks(loss_and_gradients, 4, config, torch.float32)[0]
    assert loss_sharded == pytest.approx(loss, rel=1e-6)
    for name, gradient in gradients.items():
        largest = float(expected[name].abs().max())
        torch.testing.assert_close(gradient.double(), expected[name], rtol=0, atol=5e-5 * largest, msg=name)


def _health(config: Config) -> dict[str, float]:
    """Hash health over all ranks."""
    topology = make_topology(config)
    model = ReformerLM(config.model).double().eval()
    parallelize(model, topology)
    place = (topology.shard, topology.sequence_shards)
    sequences = _sequences(config.data.sequence_length, 4)
    tokens, documents = shard_of(sequences["tokens"], *place, 0), shard_of(sequences["documents"], *place, -1)
    with torch.no_grad(), hash_health.observed(model) as health:
        model(tokens, documents=documents, first_position=topology.shard * tokens.shape[1])
    sums = health.sums()
    if topology.world_size > 1:
        dist.all_reduce(sums)
    return hash_health.metrics(sums)


@pytest.mark.parametrize(
    ("shards", "parallel"),
    [
        (2, {"attention": "heads"}),
        (3, {"attention": "buckets"}),
        (4, {"attention": "both", "head_shards": 2}),
    ],
)
def test_hash_health_is_one_workers(shards: int, parallel: dict[str, Any]) -> None:
    expected = _health(make_config(1, 47))
    for found in run_ranks(_health, shards, make_config(shards, 47, parallel)):
        assert found == pytest.approx(expected, rel=1e-9)


def _own_tokens(config: Config) -> tuple[list[int], int]:
    """Queries that each route brings to this worker when all tokens fall into one bucket, and tokens of its own."""
    topology = make_topology(config)
    assert topology.bucket_group is not None
    rule = window_rule(config.model.lsh_window, True, 16, with_self=False)
    router = Router(rule, Peers(topology.bucket_group, Traffic()), Budget(routed_entries=16))
    routes = router.routes(torch.zeros(1, 2, 3, 16, dtype=torch.int16), None, 8, None)
    return [len(route.own) for route in routes], 16


def test_load_is_balanced_with_all_tokens_in_one_bucket() -> None:
    for own, tokens in run_ranks(_own_tokens, 4, make_config(4, 64, {"attention": "buckets"})):
        assert own == [tokens] * 6  # two heads, three rounds


def test_a_failing_rank_is_an_error_and_not_a_hang() -> None:
    with pytest.raises(RuntimeError, match="does not divide"):
        run_ranks(loss_and_gradients, 2, make_config(4, 64))
