"""A checkpoint scored by one process has the loss that its training logged, and what is asked of it in vain is one line."""

import subprocess
import sys
from pathlib import Path

import pytest

from reformer_dist import checkpoints, load_config
from reformer_dist.errors import ConfigError
from reformer_dist.scoring.evaluation import evaluate
from tests.corpora import write_documents
from tests.jobs.running import Job, points

ROOT = Path(__file__).parents[2]


@pytest.fixture
def storage(place: Path, whole: Job) -> Path:
    """Where a training of two workers that share each sequence has left its checkpoint."""
    return place / "runs"


def options(storage: Path, **evaluation: object) -> dict[str, object]:
    fields = {f"evaluation.{name}": value for name, value in evaluation.items()}
    return {"train.storage": str(storage), "train.run_name": "whole", **fields}


def test_the_figure_is_the_one_that_training_logged(place: Path, storage: Path, whole: Job) -> None:
    shown: list[tuple[int, int]] = []
    result = evaluate(load_config(None, options(storage, max_sequences=4)), lambda *step: shown.append(step))
    assert result.checkpoint == checkpoints.latest(str(storage), "whole")
    curves = points(place, whole)
    assert result.loss == pytest.approx(curves["validation/loss"][-1][1], rel=1e-12)
    assert result.bits == pytest.approx(curves["validation/bits_per_token"][-1][1], rel=1e-12)
    assert shown == [(2, 4), (4, 4)]


def test_all_held_out_bytes_are_scored_once_and_other_settings_can_be_asked_for(place: Path, storage: Path) -> None:
    held_out = evaluate(load_config(None, options(storage)))
    documents = list((place / "text").iterdir())
    assert held_out.num_sequences == held_out.all_sequences > 4
    train = evaluate(load_config(None, options(storage, split="train")))
    assert held_out.num_tokens + train.num_tokens == sum(path.stat().st_size + 1 for path in documents)

    more_rounds = evaluate(load_config(None, {**options(storage), "model.num_hashes": 5}))
    assert more_rounds.num_tokens == held_out.num_tokens
    assert more_rounds.loss != held_out.loss
    with pytest.raises(ConfigError, match=r"model\.embed_dim = 64 does not go with the checkpoint's weights"):
        evaluate(load_config(None, {**options(storage), "model.embed_dim": 64}))


def test_the_job_prints_a_table_of_other_documents(storage: Path, tmp_path: Path) -> None:
    other = write_documents(tmp_path, {"a.txt": b"abc" * 100, "b.txt": b"def" * 100})
    command = [sys.executable, str(ROOT / "jobs/evaluate.py"), "--config", str(ROOT / "jobs/configs/tiny.yaml")]
    command += ["--train.storage", str(storage), "--data.sources", str(other)]
    job = subprocess.run([*command, "--train.run_name", "whole"], capture_output=True, text=True, check=False)
    assert (job.returncode, job.stderr) == (0, "")
    assert "bits a byte of a unigram model" in job.stdout
    assert f"checkpoint: {checkpoints.latest(str(storage), 'whole')}" in job.stdout

    job = subprocess.run([*command, "--train.run_name", "none"], capture_output=True, text=True, check=False)
    assert (job.returncode, job.stdout) == (2, "")
    assert job.stderr.startswith("evaluate.py: train.run_name = none: no checkpoint under")
    assert job.stderr.count("\n") == 1
