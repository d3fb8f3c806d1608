"""A checkpoint scored by one process has the loss that its training logged, and what is asked of it in vain is one line."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from reformer_dist import Config, load_config
from reformer_dist.config import ConfigError
from reformer_dist.evaluation import evaluate
from reformer_dist.ray_session import ray_session
from reformer_dist.training.launcher import RunResult, launch
from tests.corpora import random_documents, write_documents

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("storage")


@pytest.fixture(scope="module")
def trained(storage: Path) -> Iterator[tuple[Config, RunResult]]:
    """Two workers that share each sequence, in float64, so that evaluation differs by the order of sums alone."""
    documents = random_documents({f"{i:02d}.txt": 150 + 61 * i % 397 for i in range(40)})
    overrides = {
        "data.sources": str(write_documents(storage / "documents", documents)),
        "data.validation_fraction": 0.2,
        "train.storage": str(storage / "runs"),
        "train.steps": 2,
        "train.dtype": "float64",
        "tracking.sample_tokens": 0,
    }
    config = load_config(ROOT / "jobs/configs/tiny.yaml", overrides)
    with ray_session(num_cpus=2):
        yield config, launch(config)


def options(storage: Path, **evaluation: object) -> dict[str, object]:
    fields = {f"evaluation.{name}": value for name, value in evaluation.items()}
    return {"train.storage": str(storage / "runs"), "train.run_name": "tiny", **fields}


def test_the_figure_is_the_one_that_training_logged(storage: Path, trained: tuple[Config, RunResult]) -> None:
    config, run = trained
    shown: list[tuple[int, int]] = []
    asked = load_config(None, options(storage, max_sequences=config.train.validation_sequences))
    result = evaluate(asked, lambda done, total: shown.append((done, total)))
    assert result.checkpoint == run.checkpoint
    assert result.loss == pytest.approx(run.metrics["validation/loss"], rel=1e-12)
    assert result.bits == pytest.approx(run.metrics["validation/bits_per_token"], rel=1e-12)
    assert shown == [(2, 4), (4, 4)]


def test_all_held_out_bytes_are_scored_once_and_other_settings_can_be_asked_for(
    storage: Path, trained: tuple[Config, RunResult]
) -> None:
    whole = evaluate(load_config(None, options(storage)))
    documents = list((storage / "documents").iterdir())
    assert whole.num_sequences == whole.all_sequences
    train = evaluate(load_config(None, options(storage, split="train")))
    assert whole.num_tokens + train.num_tokens == sum(path.stat().st_size + 1 for path in documents)

    more_rounds = evaluate(load_config(None, {**options(storage), "model.num_hashes": 5}))
    assert more_rounds.num_tokens == whole.num_tokens
    assert more_rounds.loss != whole.loss
    with pytest.raises(ConfigError, match=r"model\.embed_dim = 64 does not go with the checkpoint's weights"):
        evaluate(load_config(None, {**options(storage), "model.embed_dim": 64}))


def test_the_job_prints_a_table_of_other_documents(storage: Path, trained: tuple[Config, RunResult]) -> None:
    other = write_documents(storage / "other", {"a.txt": b"abc" * 100, "b.txt": b"def" * 100})
    command = [sys.executable, str(ROOT / "jobs/evaluate.py"), "--config", str(ROOT / "jobs/configs/tiny.yaml")]
    command += ["--train.storage", str(storage / "runs"), "--data.sources", str(other)]
    job = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (job.returncode, job.stderr) == (0, "")
    assert "bits a byte of a unigram model" in job.stdout
    assert f"checkpoint: {trained[1].checkpoint}" in job.stdout

    job = subprocess.run([*command, "--train.run_name", "none"], capture_output=True, text=True, check=False)
    assert (job.returncode, job.stdout) == (2, "")
    assert job.stderr.startswith("evaluate.py: train.run_name = none: no checkpoint under")
    assert job.stderr.count("\n") == 1
