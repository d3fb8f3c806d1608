"""The training job as a user runs it: what it prints, leaves and refuses, and that going on is exactly like not stopping."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from reformer_dist.training import checkpoint

ROOT = Path(__file__).parents[2]


@dataclass
class Job:
    """A run of jobs/train.py on the tiny configuration that has ended."""

    status: int
    output: str
    errors: str


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with some text to train on; what the jobs store goes beside it."""
    folder = tmp_path_factory.mktemp("train")
    words = np.random.default_rng(0).choice(["alpha", "beta", "gamma"], (20, 200))
    (folder / "text").mkdir()
    for index, row in enumerate(words):
        (folder / "text" / f"{index}.txt").write_text(" ".join(row))
    return folder


def run_job(place: Path, **options: object) -> Job:
    """Run the job with `train__steps=3` for --train.steps 3."""
    arguments = {"data.sources": place / "text", "train.storage": place / "runs", "optimizer.schedule": "constant"}
    arguments |= {name.replace("__", "."): value for name, value in options.items()}
    command = [sys.executable, str(ROOT / "jobs/train.py"), "--config", str(ROOT / "jobs/configs/tiny.yaml")]
    command += [str(part) for name, value in arguments.items() for part in (f"--{name}", value)]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=place, check=False)
    return Job(done.returncode, done.stdout, done.stderr)


def points(place: Path, job: Job) -> dict[str, list[tuple[int, float]]]:
    """All points of the MLflow run that a job printed."""
    client = MlflowClient(f"sqlite:///{place}/runs/mlflow.db")
    run_id = job.output.split("MLflow run ")[1].split()[0]
    names = client.get_run(run_id).data.metrics
    return {name: [(p.step, p.value) for p in client.get_metric_history(run_id, name)] for name in names}


@pytest.fixture(scope="module")
def whole(place: Path) -> Job:
    """Six steps in one go."""
    return run_job(place, train__run_name="whole")


def test_job_leaves_what_it_promises(place: Path, whole: Job) -> None:
    assert whole.status == 0, whole.errors
    assert whole.errors == ""
    assert "validation" in whole.output
    assert "tokens/s" in whole.output
    assert not [line for line in whole.output.splitlines() if "WARN" in line or "INFO" in line]
    curves = points(place, whole)
    assert [step for step, _ in curves["train/loss"]] == [1, 2, 3, 4, 5, 6]
    assert [step for step, _ in curves["validation/bits_per_token"]] == [3, 6]
    assert {"train/grad_norm", "train/learning_rate", "train/tokens_per_second", "validation/loss"} <= set(curves)
    assert curves["memory/worker_1_mib"][0][1] > 50
    assert curves["validation/loss"][1][1] < curves["validation/loss"][0][1], "it learns"
    run_id = whole.output.split("MLflow run ")[1].split()[0]
    client = MlflowClient(f"sqlite:///{place}/runs/mlflow.db")
    assert client.get_run(run_id).info.status == "FINISHED"
    assert {a.path for a in client.list_artifacts(run_id)} == {"config.yaml", "learning_curve.png", "sample.txt"}
    path = checkpoint.latest(str(place / "runs"), "whole")
    assert path in whole.output
    model, config, _ = checkpoint.load_model(path)
    assert config.model.embed_dim == 32
    assert sum(p.numel() for p in model.parameters()) > 10_000


def test_going_on_is_exactly_like_not_stopping(place: Path, whole: Job) -> None:
    first = run_job(place, train__run_name="parts", train__steps=3)
    assert first.status == 0, first.errors
    second = run_job(place, train__run_name="parts", train__steps=6)
    assert second.status == 0, second.errors
    assert "continuing from step 3" in second.output
    expected, found = points(place, whole), points(place, second)
    for name in ("train/loss", "train/grad_norm", "validation/loss"):
        assert found[name] == expected[name], name
    weights = [Path(checkpoint.latest(str(place / "runs"), name)) / "model.safetensors" for name in ("parts", "whole")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"train__workers": 4096, "train__batch_size": 4096}, "train.workers = 4096 is more than"),
        ({"model__vocab_size": 100}, "model.vocab_size = 100 is less than data.tokenizer = bytes needs; 256 works"),
        ({"tracking__uri": "http://127.0.0.1:9"}, "tracking.uri = http://127.0.0.1:9 does not answer"),
        ({"train__storage": "/proc/runs"}, "train.storage = /proc/runs cannot be written"),
        ({"data__sources": "/nowhere/*.txt"}, "data.sources"),
    ],
)
def test_mistakes_are_one_line_before_ray_starts(place: Path, options: dict[str, object], reason: str) -> None:
    job = run_job(place, **options)
    assert job.status == 2
    assert reason in job.errors
    assert len(job.errors.splitlines()) == 1
    assert job.output == ""


def test_divergence_ends_the_run_with_its_reason(place: Path) -> None:
    job = run_job(
        place, train__run_name="diverges", optimizer__learning_rate=1e30, optimizer__warmup_steps=0, train__steps=40
    )
    assert job.status == 1
    assert job.errors.startswith("train.py: the loss became ")
    assert len(job.errors.splitlines()) == 1
    client = MlflowClient(f"sqlite:///{place}/runs/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("reformer_dist").experiment_id])
    assert {run.info.run_name: run.info.status for run in runs}["diverges"] == "FAILED"
