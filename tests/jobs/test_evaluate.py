"""A checkpoint scored by one process has the loss that its training logged, and what is asked of it in vain is one line."""

import csv
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from reformer_dist import checkpoints, load_config
from reformer_dist.errors import ConfigError
from reformer_dist.scoring.evaluation import evaluate
from reformer_dist.scoring.telling import record, to_csv
from reformer_dist.tracking.client import search
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


def kill_one() -> int:
    """Kill a process that scores; its number."""
    scoring = next(one for one in psutil.process_iter() if "".join(one.cmdline()[:1]).startswith("ray::_Worker"))
    scoring.kill()
    return scoring.pid


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


def test_rounds_and_exact_attention_are_scored_in_the_same_weights_by_any_number_of_workers(storage: Path) -> None:
    asked = options(storage, rounds=(2, 4), exact=True, max_sequences=6)
    here = evaluate(load_config(None, asked))
    killed: list[int] = []
    there = evaluate(
        load_config(None, {**asked, "evaluation.workers": 2}), lambda *_: killed or killed.append(kill_one())
    )
    assert killed
    assert list(here.settings) == ["2 rounds", "4 rounds", "exact"]
    assert len({scores.metrics["loss"] for scores in here.settings.values()}) == 3
    for name, scores in here.settings.items():
        assert scores.num_tokens == here.num_tokens == sum(share.num_tokens for share in scores.by_context)
        for ours, theirs in zip(scores.by_context, there.settings[name].by_context, strict=True):
            assert (ours.name, ours.num_tokens) == (theirs.name, theirs.num_tokens)
            assert ours.metrics == pytest.approx(theirs.metrics, rel=1e-12)

    more = evaluate(load_config(None, options(storage, max_sequences=6) | {"model.num_hashes": 4}))
    assert more.loss == here.settings["4 rounds"].metrics["loss"]
    many = load_config(None, options(storage, max_sequences=6, workers=999))
    with pytest.raises(ConfigError, match=r"evaluation\.workers = 999: there are \d+ CPUs; \d+ works"):
        evaluate(many)


def test_more_context_can_be_asked_for(storage: Path) -> None:
    trained = evaluate(load_config(None, options(storage)))
    sliding = evaluate(load_config(None, options(storage, context="sliding", stride=8)))
    assert sliding.num_tokens == trained.num_tokens
    assert sliding.scores.by_context[0].num_tokens < trained.scores.by_context[0].num_tokens
    with pytest.raises(ConfigError, match=r"evaluation\.stride = 9,999 would leave out tokens.*; 128 works"):
        evaluate(load_config(None, options(storage, context="sliding", stride=9999)))
    with pytest.raises(ConfigError, match=r"context = document: a document has [\d,]+ positions, model\.max_length = "):
        evaluate(load_config(None, options(storage, context="document")))


def test_the_job_prints_a_table_of_other_documents(place: Path, storage: Path, whole: Job, tmp_path: Path) -> None:
    other = write_documents(tmp_path, {"a.txt": b"abc" * 100, "b.txt": b"def" * 100})
    command = [sys.executable, str(ROOT / "jobs/evaluate.py"), "--config", str(ROOT / "jobs/configs/tiny.yaml")]
    command += ["--train.storage", str(storage), "--data.sources", f"{other}/a.txt,{other}/b.txt"]
    command += ["--evaluation.split", "all"]
    job = subprocess.run([*command, "--train.run_name", "whole"], capture_output=True, text=True, check=False)
    assert (job.returncode, job.stderr) == (0, "")
    assert re.search(r"bytes scored \(all\) +│ +602 ", job.stdout)
    assert all(f"│ {name}  " in job.stdout for name in ("a.txt", "b.txt")), "sources, without what their paths share"
    assert f"checkpoint: {checkpoints.latest(str(storage), 'whole')}" in job.stdout

    job = subprocess.run([*command, "--train.run_name", "none"], capture_output=True, text=True, check=False)
    assert (job.returncode, job.stdout) == (2, "")
    assert job.stderr.startswith("evaluate.py: train.run_name = none: no checkpoint under")
    assert job.stderr.count("\n") == 1


def test_what_is_found_is_a_child_of_the_trainings_run(place: Path, storage: Path, whole: Job) -> None:
    found = evaluate(load_config(None, options(storage, rounds=(1,), max_sequences=4)))
    assert " ui --backend-store-uri " in record(found)
    uri = f"sqlite:///{storage}/mlflow.db"
    client, trainings = search(uri, "reformer_dist")
    assert "evaluated" not in " ".join(run.info.run_name for run in trainings), "comparisons and sweeps read trainings"
    parent = whole.output.split("MLflow run ")[1].split()[0]
    experiment = client.get_run(parent).info.experiment_id
    child = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent}'")[0]
    metrics = child.data.metrics
    assert metrics["validation/bits_per_token"] == found.bits == pytest.approx(metrics["validation/bits_per_byte"])
    assert metrics["validation/1 round/bits_per_token"] == found.settings["1 round"].metrics["bits_per_token"]
    assert {artifact.path for artifact in client.list_artifacts(child.info.run_id)} == {"scores.csv", "scores.png"}
    table = list(csv.DictReader(to_csv(found).splitlines()))
    of_round = [row for row in table if (row["attention"], row["by"]) == ("1 round", "context")]
    assert sum(int(row["tokens"]) for row in of_round) == found.num_tokens
