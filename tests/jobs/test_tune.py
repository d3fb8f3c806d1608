"""A sweep that is killed and goes on, with a trial that fails and impossible ones: table, MLflow runs, artifacts."""

import csv
import io
import signal
import subprocess
import sys
import time
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run

from reformer_dist.config import load_config
from tests.corpora import random_documents, write_documents

ROOT = Path(__file__).parents[2]
STEPS = 150
SPACE = '{"optimizer.learning_rate": [1e+38, 0.001], "parallel.sequence_shards": [1, 3]}'


def start(storage: Path, documents: Path, *options: str) -> "subprocess.Popen[str]":
    """A sweep of two trainings with one worker, one after the other: the first fails, the second takes some seconds."""
    command = [sys.executable, str(ROOT / "jobs/tune.py"), "--config", str(ROOT / "jobs/configs/tiny.yaml")]
    command += ["--data.sources", str(documents), "--data.validation_fraction", "0.2", "--train.storage", str(storage)]
    command += [
        "--train.steps",
        str(STEPS),
        "--train.validate_every",
        str(STEPS // 2),
        "--train.checkpoint_every",
        "20",
    ]
    command += ["--train.workers", "1", "--parallel.sequence_shards", "1", "--train.log_every", "5"]
    command += ["--tracking.sample_tokens", "0", "--tune.space", SPACE, "--tune.max_concurrent", "1", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_killed_sweep_goes_on_and_reports_every_trial(tmp_path: Path) -> None:
    documents = write_documents(tmp_path / "documents", random_documents({f"{i:02d}.txt": 400 for i in range(30)}))
    storage = tmp_path / "runs"
    job = start(storage, documents)
    while not list(storage.glob("tiny-1-02/1/step_*/manifest.json")):  # of the second training, the third combination
        assert job.poll() is None, job.communicate()
        time.sleep(0.05)
    job.send_signal(signal.SIGKILL)
    lines = job.communicate()[0].splitlines()
    assert sum(line.startswith("left out: ") and "sequence_shards" in line for line in lines) == 2
    assert "trials: 2, 1 at a time" in lines
    assert "trial 1 (learning_rate 1e+38, sequence_shards 1): failed" in lines
    assert lines[-1] == "trial 3 (learning_rate 0.001, sequence_shards 1): started"

    job = start(storage, documents, "--tune.resume")
    output, errors = job.communicate()
    assert (job.returncode, errors) == (0, "")
    lines = output.splitlines()
    assert "trials: 1, 1 at a time" in lines
    told = [line.split(": ")[0] for line in lines if line.startswith("trial ")]
    assert told == ["trial 3 (learning_rate 0.001, sequence_shards 1)"] * 2, "the trial that had ended is not repeated"
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    assert [(row[0], row[-2]) for row in rows] == [
        ("3", "finished"),
        ("1", "failed"),
        ("2", "impossible"),
        ("4", "impossible"),
    ]
    assert any(line.startswith("learning_rate 1e+38, sequence_shards 1: the loss or gradient of") for line in lines)

    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    parent, children = runs_of(client)
    assert f"MLflow run {parent.info.run_id} of sqlite:///{storage}/mlflow.db" in lines
    rates = {run.data.params["optimizer.learning_rate"]: run for run in children}
    assert {rate: run.info.status for rate, run in rates.items()} == {"0.001": "FINISHED", "1e+38": "FAILED"}
    points = client.get_metric_history(rates["0.001"].info.run_id, "train/loss")
    assert [point.step for point in points] == list(range(5, STEPS + 1, 5)), "in one run, and no step twice"
    artifacts = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert artifacts == {"trials.csv", "best.yaml", "pareto.png", "learning_curves.png", "hash_health.png"}
    check_artifacts(client, parent, rows[0], tmp_path)


def runs_of(client: MlflowClient) -> tuple[Run, list[Run]]:
    """The sweep's run and those of its two trainings."""
    experiment = client.get_experiment_by_name("reformer_dist")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = (run for run in runs if run.info.run_name == "tiny")
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) == len(runs) - 1 == 2
    assert parent.info.status == "FINISHED"
    return parent, children


def check_artifacts(client: MlflowClient, parent: Run, best_row: list[str], folder: Path) -> None:
    """The table has every trial, the best first, with its last metrics; the best configuration is that trial's."""
    path = Path(client.download_artifacts(parent.info.run_id, "trials.csv", str(folder)))
    table = list(csv.DictReader(io.StringIO(path.read_text())))
    assert len(table) == 4
    best = client.get_run(table[0]["run_id"])
    bits = best.data.metrics["validation/bits_per_token"]
    assert float(table[0]["validation/bits_per_token"]) == bits
    assert float(best_row[3]) == round(bits, 4)
    config = load_config(client.download_artifacts(parent.info.run_id, "best.yaml", str(folder)))
    assert str(config.optimizer.learning_rate) == best.data.params["optimizer.learning_rate"] == best_row[1]
