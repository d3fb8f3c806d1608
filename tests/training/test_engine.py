"""The engine against plain torch: gradients, steps and resumption at every ZeRO stage, on two ranks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import nn

from reformer_dist.checkpoints import optimizer_state
from reformer_dist.config import Config, ModelConfig, load_config
from reformer_dist.data.feeding.batch import Batch
from reformer_dist.model.reformer import ReformerLM
from reformer_dist.training.engine.engine import Engine
from reformer_dist.training.engine.optimizer import make_optimizer, set_learning_rates
from tests.corpora import NEXT_TOKEN
from tests.ranks import run_ranks

NUM_STEPS, NUM_ROWS = 4, 12
MODEL = ModelConfig(
    vocab_size=17, embed_dim=16, num_heads=2, feed_forward_dim=32, layers=("local", "lsh"), max_length=16, num_buckets=4
)


def make_config(stage: int, dtype: str, workers: int = 2, optimizer: str = "adamw") -> Config:
    settings = {
        "model": MODEL.model_dump(),
        "data.sequence_length": 16,
        "train": {
            "workers": workers,
            "batch_size": NUM_ROWS,
            "micro_batch_size": 2,
            "steps": NUM_STEPS,
            "dtype": dtype,
        },
        "parallel.zero_stage": stage,
        "optimizer": {"name": optimizer, "warmup_steps": 1, "max_grad_norm": 0.05, "weight_decay": 0.3},
    }
    return load_config(None, settings)


def make_batches(step: int, rank: int, workers: int = 2) -> list[Batch]:
    """A rank's micro-batches of a step, two rows each; every row of the step scores another number of tokens."""
    generator = torch.Generator().manual_seed(step)
    tokens_BT, labels_BT = torch.randint(0, 17, (2, NUM_ROWS, 16), generator=generator)
    for row in range(NUM_ROWS):
        labels_BT[row, :row] = -100
    positions_BT = torch.arange(16).expand(2, 16)
    share = NUM_ROWS // workers
    return [
        Batch(
            tokens_BT[row : row + 2],
            labels_BT[row : row + 2],
            positions_BT,
            torch.zeros_like(positions_BT),
            first_row=row,
        )
        for row in range(rank * share, (rank + 1) * share, 2)
    ]


def plain_steps(config: Config) -> tuple[dict[str, torch.Tensor], list[float]]:
    """Weights after all steps and gradient norms, from one process and no DeepSpeed."""
    model = ReformerLM(config.model)
    if config.train.dtype == "float64":
        model.double()
    optimizer = make_optimizer(model, config.optimizer, lambda: optimizer_state.whole(model))
    norms = []
    for step in range(NUM_STEPS):
        batches = [batch for rank in range(2) for batch in make_batches(step, rank)]
        num_tokens = sum(batch.num_tokens for batch in batches)
        set_learning_rates(optimizer, config.optimizer, step, NUM_STEPS)
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
    rank, workers = dist.get_rank(), dist.get_world_size()
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(workers))
    model = ReformerLM(config.model)
    if load is not None:
        model.load_state_dict(load_file(load / "model.safetensors"))
    engine = Engine(model, NEXT_TOKEN, config, torch.device("cpu"))
    if load is not None:
        engine.load_state(load / "optimizer", start)
    norms = []
    for step in range(start, stop):
        engine.train_step(make_batches(step, rank, workers), step)
        norms.append(engine.grad_norm())
    weights: dict[str, torch.Tensor] = {}
    engine.copy_weights(weights)
    if save is not None:
        moments: dict[str, torch.Tensor] = {}
        engine.copy_state(moments)
        (save / "optimizer").mkdir(parents=True, exist_ok=True)
        save_file(moments, save / "optimizer" / f"{rank:05d}.safetensors")
        if rank == 0:
            save_file(weights, save / "model.safetensors")
    return weights, norms


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-6), ("float64", 1e-13)])
def test_steps_equal_plain_torch(stage: int, dtype: str, tolerance: float, optimizer: str) -> None:
    """Uneven tokens, accumulation and clipping."""
    config = make_config(stage, dtype, optimizer=optimizer)
    expected, expected_norms = plain_steps(config)
    (weights, norms), _ = run_ranks(engine_steps, 2, config, 0, NUM_STEPS, None, None)
    assert min(expected_norms) > config.optimizer.max_grad_norm, "clipping must be at work"
    assert norms == pytest.approx(expected_norms, rel=1e-5)
    for name, value in expected.items():
        assert weights[name].dtype == value.dtype
        torch.testing.assert_close(
            weights[name], value, rtol=0, atol=tolerance, msg=lambda text, n=name: f"{n}: {text}"
        )


def bucket_elements(config: Config) -> tuple[int, int]:
    """Elements of the bucket that DeepSpeed reduces gradients by, and of the model."""
    rank = str(dist.get_rank())
    os.environ.update(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=str(dist.get_world_size()))
    model = ReformerLM(config.model)
    num_weights = sum(weight.numel() for weight in model.parameters())
    return Engine(model, NEXT_TOKEN, config, torch.device("cpu")).deepspeed.optimizer.reduce_bucket_size, num_weights


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_small_models_gradients_take_a_small_bucket(stage: int) -> None:
    """DeepSpeed's default is 2 GB in float32 whatever the model."""
    for size, num_weights in run_ranks(bucket_elements, 2, make_config(stage, "float32")):
        assert size == num_weights


@pytest.mark.parametrize(("stage", "optimizer"), [(0, "adamw"), (1, "muon"), (2, "adamw"), (3, "muon")])
def test_resumed_steps_are_bit_identical(stage: int, optimizer: str, tmp_path: Path) -> None:
    config = make_config(stage, "float32", optimizer=optimizer)
    (expected, _), _ = run_ranks(engine_steps, 2, config, 0, NUM_STEPS, None, None)
    run_ranks(engine_steps, 2, config, 0, 2, None, tmp_path)
    (weights, _), _ = run_ranks(engine_steps, 2, config, 2, NUM_STEPS, tmp_path, None)
    for name, value in expected.items():
        assert torch.equal(weights[name], value), name


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize(
    ("first", "second"),
    [((1, 2), (3, 3)), ((3, 3), (0, 2)), ((0, 3), (2, 1)), ((2, 2), (1, 3)), ((3, 2), (3, 1))],
    ids=lambda grid: f"stage{grid[0]}-workers{grid[1]}",
)
def test_another_stage_and_number_of_workers_goes_on(
    first: tuple[int, int], second: tuple[int, int], optimizer: str, tmp_path: Path
) -> None:
    """Moments that were lost, shifted or scaled would move weights by a whole learning rate, 3e-4; Muon's, 6e-3."""
    whole, before, after = (make_config(stage, "float32", n, optimizer) for stage, n in [(1, 2), first, second])
    expected, _ = plain_steps(whole)
    run_ranks(engine_steps, first[1], before, 0, 2, None, tmp_path)
    weights, _ = run_ranks(engine_steps, second[1], after, 2, NUM_STEPS, tmp_path, None)[0]
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, rtol=0, atol=2e-6, msg=lambda text, n=name: f"{n}: {text}")


def take_a_step() -> None:
    """A worker's first, in a process of its own."""
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    config = make_config(1, "float32", workers=1)
    engine = Engine(ReformerLM(config.model), NEXT_TOKEN, config, torch.device("cpu"))
    engine.train_step(make_batches(0, 0, workers=1), 0)
    print([name for name in ("torch._dynamo", "torch._inductor", "mlflow") if name in sys.modules])
    dist.destroy_process_group()


def test_a_worker_does_not_import_what_it_never_uses() -> None:
    """Torch's compiler and MLflow would take its first step seconds."""
    code = "from tests.training.test_engine import take_a_step; take_a_step()"
    ended = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ended.stdout.splitlines()[-1] == "[]"
