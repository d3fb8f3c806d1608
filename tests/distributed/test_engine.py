"""The engine against plain torch: gradients, steps and resumption at every ZeRO stage, on two ranks."""

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from reformer_dist.config import Config, ModelConfig, load_config
from reformer_dist.data.batch import Batch
from reformer_dist.model.reformer import ReformerLM
from reformer_dist.training.engine import Engine, learning_rate, make_optimizer
from tests.distributed.harness import run_ranks

NUM_STEPS, NUM_MICRO_BATCHES = 4, 3
MODEL = ModelConfig(
    vocab_size=17, embed_dim=16, num_heads=2, feed_forward_dim=32, layers=("local", "lsh"), max_length=16, num_buckets=4
)


def make_config(stage: int, dtype: str) -> Config:
    settings = {
        "model": MODEL.model_dump(),
        "data.sequence_length": 16,
        "train": {"workers": 2, "batch_size": 12, "micro_batch_size": 2, "steps": NUM_STEPS, "dtype": dtype},
        "parallel.zero_stage": stage,
        "optimizer": {"warmup_steps": 1, "max_grad_norm": 0.05, "weight_decay": 0.3},
    }
    return load_config(None, settings)


def make_batches(step: int, rank: int) -> list[Batch]:
    """Micro-batches in which every one and every rank scores another number of tokens."""
    batches = []
    for index in range(NUM_MICRO_BATCHES):
        generator = torch.Generator().manual_seed(100 * step + 10 * rank + index)
        tokens_BT, labels_BT = torch.randint(0, 17, (2, 2, 16), generator=generator)
        labels_BT.view(-1)[: 1 + 4 * rank + 2 * index] = -100
        positions_BT = torch.arange(16).expand(2, 16)
        first_row = (rank * NUM_MICRO_BATCHES + index) * 2
        batches.append(Batch(tokens_BT, labels_BT, positions_BT, torch.zeros_like(tokens_BT), first_row=first_row))
    return batches


def plain_steps(config: Config) -> tuple[dict[str, torch.Tensor], list[float]]:
    """Weights after all steps and gradient norms, from one process and no DeepSpeed."""
    model = ReformerLM(config.model)
    if config.train.dtype == "float64":
        model.double()
    optimizer = make_optimizer(model, config.optimizer)
    norms = []
    for step in range(NUM_STEPS):
        batches = [batch for rank in range(2) for batch in make_batches(step, rank)]
        num_tokens = sum(batch.num_tokens for batch in batches)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config.optimizer, step, NUM_STEPS)
        optimizer.zero_grad()
        for batch in batches:
            loss_sum, _ = model.loss(
                batch.tokens_BT,
                batch.labels_BT,
                batch.positions_BT,
                batch.documents_BT,
                step=step,
                first_row=batch.first_row,
            )
            (loss_sum / num_tokens).backward()
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.max_grad_norm)))
        optimizer.step()
    return model.state_dict(), norms


def engine_steps(config: Config, start: int, stop: int, load: Path | None, save: Path | None):
    """On each rank: (weights, gradient norms) after steps `start` to `stop`."""
    os.environ.update(RANK=str(dist.get_rank()), LOCAL_RANK=str(dist.get_rank()), WORLD_SIZE="2")
    engine = Engine(ReformerLM(config.model), config, torch.device("cpu"))
    if load is not None:
        engine.load_state(load)
    norms = []
    for step in range(start, stop):
        engine.train_step(make_batches(step, dist.get_rank()), step)
        norms.append(engine.grad_norm())
    if save is not None:
        engine.save_state(save)
    return engine.weights(), norms


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-6), ("float64", 1e-10)])
def test_steps_equal_plain_adamw(stage: int, dtype: str, tolerance: float) -> None:
    """Uneven tokens, accumulation and clipping. In float64 only the factor of clipping is float32."""
    config = make_config(stage, dtype)
    expected, expected_norms = plain_steps(config)
    (weights, norms), _ = run_ranks(engine_steps, 2, config, 0, NUM_STEPS, None, None)
    assert min(expected_norms) > config.optimizer.max_grad_norm, "clipping must be at work"
    assert norms == pytest.approx(expected_norms, rel=1e-5)
    for name, value in expected.items():
        assert weights[name].dtype == value.dtype
        torch.testing.assert_close(
            weights[name], value, rtol=0, atol=tolerance, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_resumed_steps_are_bit_identical(stage: int, tmp_path: Path) -> None:
    config = make_config(stage, "float32")
    (expected, _), _ = run_ranks(engine_steps, 2, config, 0, NUM_STEPS, None, None)
    run_ranks(engine_steps, 2, config, 0, 2, None, tmp_path)
    (weights, _), _ = run_ranks(engine_steps, 2, config, 2, NUM_STEPS, tmp_path, None)
    for name, value in expected.items():
        assert torch.equal(weights[name], value), name
