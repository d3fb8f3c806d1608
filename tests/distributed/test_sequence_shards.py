"""Loss and gradients of a sharded sequence equal one process's."""

import pytest
import torch
import torch.distributed as dist

from reformer_dist import Config, ReformerLM, load_config
from reformer_dist.parallel.parallelize import parallelize
from reformer_dist.parallel.topology import make_topology
from tests.distributed.harness import run_ranks

BATCH = 2


def _config(shards: int, length: int, **model: object) -> Config:
    tree = {
        "data": {"sequence_length": length},
        "parallel": {"sequence_shards": shards},
        "train": {"workers": shards, "batch_size": BATCH},
        "model": {
            "vocab_size": 19,
            "embed_dim": 24,
            "num_heads": 12,
            "feed_forward_dim": 40,
            "layers": "local,lsh,full,lsh",
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


def _sequences(length: int) -> dict[str, torch.Tensor]:
    """Two packed documents a sequence, padding behind them, and labels that leave whole stretches unscored."""
    generator = torch.Generator().manual_seed(7)
    tokens, labels = torch.randint(19, (2, BATCH, length), generator=generator)
    labels[:, : length // 2 + 3] = -100
    documents = (torch.arange(length) > length // 3).long().repeat(BATCH, 1)
    documents[:, length - 4 :] = -1
    return {"tokens": tokens, "labels": labels, "documents": documents}


def _loss_and_gradients(config: Config) -> tuple[float, int, dict[str, torch.Tensor]]:
    """Over all ranks: the summed loss, the scored tokens and the summed gradients."""
    topology = make_topology(config)
    model = ReformerLM(config.model).double().train()
    parallelize(model, topology)
    length = config.data.sequence_length
    part = -(-length // topology.sequence_shards)
    start = topology.shard * part
    fill = {"tokens": 0, "labels": -100, "documents": -1}
    shard = {
        name: torch.nn.functional.pad(x, (0, part * topology.sequence_shards - length), value=fill[name])[
            :, start : start + part
        ]
        for name, x in _sequences(length).items()
    }
    positions = torch.arange(start, start + part).clamp(max=length - 1).repeat(BATCH, 1)
    loss, count = model.loss(**shard, positions=positions, step=3, first_row=5, first_position=start)
    loss.backward()
    sums = [loss.detach(), count, *(p.grad for p in model.parameters() if p.grad is not None)]
    if topology.world_size > 1:
        for x in sums:
            dist.all_reduce(x)
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return sums[0].item(), int(sums[1]), gradients


@pytest.mark.parametrize("mode", ["window", "chunked", "paper"])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("shards", "length"), [(2, 64), (2, 61), (3, 50), (4, 47)])
def test_shards_equal_one_process(shards: int, length: int, causal: bool, mode: str) -> None:
    model = {"causal": causal, "lsh_mode": mode}
    loss, count, expected = _loss_and_gradients(_config(1, length, **model))
    for loss_sharded, count_sharded, gradients in run_ranks(
        _loss_and_gradients, shards, _config(shards, length, **model)
    ):
        assert count_sharded == count
        assert loss_sharded == pytest.approx(loss, rel=1e-12)
        assert gradients.keys() == expected.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, expected[name], rtol=1e-10, atol=1e-10, msg=name)


def test_a_failing_rank_is_an_error_and_not_a_hang() -> None:
    with pytest.raises(RuntimeError, match="does not divide"):
        run_ranks(_loss_and_gradients, 2, _config(4, 64))
