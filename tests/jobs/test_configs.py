"""A configuration that no test machine can train trains here when it is scaled down, and is what it says at its size."""

from pathlib import Path

import numpy as np
import pytest

from reformer_dist import load_config
from tests.jobs.running import points, run_job

CONFIGS = Path(__file__).parents[2] / "jobs/configs"
ENWIK8 = CONFIGS / "enwik8.yaml"
SMALL = {
    "data__sequence_length": 512,
    "model__max_length": 512,
    "model__axial_shape": "16,32",
    "model__axial_dims": "16,16",
    "model__embed_dim": 32,
    "model__num_heads": 2,
    "model__feed_forward_dim": 64,
    "model__num_buckets": "2,8",
    "model__lsh_window": 16,
    "model__local_window": 16,
    "optimizer__warmup_steps": 1,
    "train__workers": 2,
    "train__use_gpu": "false",
    "train__dtype": "float32",
    "train__batch_size": 4,
    "train__log_every": 1,
    "train__validate_every": 2,
    "train__checkpoint_every": 2,
}


def test_enwik8_scaled_down_trains(tmp_path: Path) -> None:
    words = np.random.default_rng(0).choice([b"[[alpha]]", b"<page>", b"''beta''", b"gamma"], 8000)
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "enwik8").write_bytes(b" ".join(words))
    job = run_job(tmp_path, config=ENWIK8, train__steps=4, **SMALL)
    assert (job.status, job.errors) == (0, "")
    curves = points(tmp_path, job)
    assert [step for step, _ in curves["train/loss"]] == [1, 2, 3, 4]
    assert [step for step, _ in curves["validation/loss"]] == [2, 4]
    assert all(np.isfinite(value) and value < 6.5 for _, value in curves["train/loss"])


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_configuration_is_one(path: Path) -> None:
    """And its run is called as its file is, so that none goes on with another's checkpoints."""
    assert load_config(path).train.run_name == path.stem


def test_enwik8_is_the_published_setting() -> None:
    config = load_config(ENWIK8)
    assert (len(config.model.layers), config.model.embed_dim, config.data.sequence_length) == (12, 1024, 65_536)
    assert [config.model.layers.count(kind) for kind in ("local", "lsh")] == [9, 3]
    assert (config.model.positions, config.model.bucket_factors) == ("axial", (16, 32))
    assert config.train.resume == "auto"
