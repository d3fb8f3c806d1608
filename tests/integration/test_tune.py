"""A sweep with a trial that finishes, one that fails and one that is impossible: table, MLflow runs and exit status."""

import csv
import io
import re
import subprocess
import sys
from pathlib import Path

from mlflow import MlflowClient

from reformer_dist.config import load_config
from tests.corpora import random_documents, write_documents

ROOT = Path(__file__).parents[2]


def tune_job(storage: Path, documents: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "jobs/tune.py"), "--config", str(ROOT / "jobs/configs/tiny.yaml")]
    command += ["--data.sources", str(documents), "--data.validation_fraction", "0.2", "--train.storage", str(storage)]
    command += ["--train.steps", "3", "--train.workers", "1", "--parallel.sequence_shards", "1", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_sweep_reports_every_trial_and_goes_on_past_failures(tmp_path: Path) -> None:
    documents = write_documents(tmp_path / "documents", random_documents({f"{i:02d}.txt": 400 for i in range(30)}))
    storage = tmp_path / "runs"
    space = '{"optimizer.learning_rate": [0.001, 1e+38], "parallel.sequence_shards": [1, 3]}'
    job = tune_job(storage, documents, "--tune.space", space, "--tracking.sample_tokens", "0")
    assert (job.returncode, job.stderr) == (0, "")
    lines = job.stdout.splitlines()
    assert sum(line.startswith("left out: ") and "sequence_shards" in line for line in lines) == 2
    assert any(line.startswith("trials: 2, ") for line in lines)
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    assert [(row[0], row[1]) for row in rows[:2]] == [("0.001", "1"), ("1e+38", "1")]
    assert float(rows[0][2]) > 0
    assert [row[-2] for row in rows] == ["finished", "failed", "impossible", "impossible"]
    assert any(
        line.startswith("learning_rate 1e+38, sequence_shards 1: the loss or gradient of step") for line in lines
    )

    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    experiment = client.get_experiment_by_name("reformer_dist")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = (run for run in runs if run.info.run_name == "tiny")
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) == len(runs) - 1 == 2
    assert f"MLflow run {parent.info.run_id} of sqlite:///{storage}/mlflow.db" in lines
    assert {run.data.params["optimizer.learning_rate"]: run.info.status for run in [*children, parent]} == {
        "0.001": "FINISHED",
        "1e+38": "FAILED",
    }
    (child,) = (run for run in children if run.info.status == "FINISHED")
    assert float(rows[0][2]) == round(child.data.metrics["validation/bits_per_token"], 4)
    kept = {artifact.path for artifact in client.list_artifacts(parent.info.run_id)}
    assert kept == {"trials.csv", "best.yaml", "pareto.png", "learning_curves.png"}
    best = Path(client.download_artifacts(parent.info.run_id, "best.yaml", str(tmp_path)))
    assert load_config(best).optimizer.learning_rate == 0.001
    artifact = Path(client.download_artifacts(parent.info.run_id, "trials.csv", str(tmp_path)))
    table = list(csv.DictReader(io.StringIO(artifact.read_text())))
    assert len(table) == 4
    assert table[0]["run_id"] == child.info.run_id
    assert float(table[0]["validation/bits_per_token"]) == child.data.metrics["validation/bits_per_token"]


def test_a_sweep_without_a_success_fails_and_a_mistake_is_one_line(tmp_path: Path) -> None:
    documents = write_documents(tmp_path / "documents", random_documents({f"{i:02d}.txt": 400 for i in range(30)}))
    job = tune_job(tmp_path / "runs", documents, "--tune.space", '{"train.resume": ["nowhere"]}')
    assert "trial 1 (resume nowhere): failed" in job.stdout
    assert re.search(
        r"^resume nowhere: train\.resume = nowhere: checkpoint \S*nowhere: no manifest.json", job.stdout, re.MULTILINE
    )
    assert (job.returncode, job.stderr) == (1, "tune.py: no trial succeeded\n")

    job = tune_job(tmp_path / "runs", documents, "--tune.space", '{"model.num_hash": [1]}')
    assert (job.returncode, job.stdout) == (2, "")
    assert job.stderr == "tune.py: unknown field model.num_hash; did you mean model.num_hashes?\n"
