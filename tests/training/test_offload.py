"""With the optimizer's state offloaded to the CPU, steps are those of plain torch."""

from pathlib import Path

import pytest
import torch

from reformer_dist.config import load_config
from tests.ranks import run_ranks
from tests.training.test_engine import NUM_STEPS, engine_steps, make_config, plain_steps


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_offloaded_steps_equal_plain_torch(stage: int, optimizer: str) -> None:
    """Uneven tokens, accumulation and clipping, as for the engine without offload."""
    config = make_config(stage, "float32", optimizer=optimizer)
    expected, expected_norms = plain_steps(config)
    config = load_config(None, {**config.model_dump(), "parallel.offload_optimizer": True})
    (weights, norms), _ = run_ranks(engine_steps, 2, config, 0, NUM_STEPS, None, None)
    assert norms == pytest.approx(expected_norms, rel=1e-5)
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, rtol=0, atol=2e-6, msg=name)


def test_resuming_with_offload_on_or_off_changes_nothing(tmp_path: Path) -> None:
    """Weights and moments go from the offloading engine into a checkpoint, into a plain one, and back."""
    plain = make_config(2, "float32")
    expected, _ = plain_steps(plain)
    offloaded = load_config(None, {**plain.model_dump(), "parallel.offload_optimizer": True})
    run_ranks(engine_steps, 2, offloaded, 0, 1, None, tmp_path / "one")
    run_ranks(engine_steps, 2, plain, 1, 2, tmp_path / "one", tmp_path / "two")
    (weights, _), _ = run_ranks(engine_steps, 2, offloaded, 2, NUM_STEPS, tmp_path / "two", None)
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, rtol=0, atol=2e-6, msg=lambda text, n=name: f"{n}: {text}")
