"""The training job as a user runs it: what it prints, leaves and refuses."""

import re
import runpy
from pathlib import Path

import pytest
import ray
from mlflow import MlflowClient

from reformer_dist import checkpoints
from reformer_dist.benchmarks.reliability import bare_loop, overhead
from reformer_dist.benchmarks.reliability.trainings import MODEL
from tests.jobs.running import ROOT, Job, command, points


def test_job_leaves_what_it_promises(place: Path, whole: Job) -> None:
    assert whole.errors == ""
    assert "validation" in whole.output
    assert "tokens/s" in whole.output
    assert not [line for line in whole.output.splitlines() if "WARN" in line or "INFO" in line]
    curves = points(place, whole)
    assert [step for step, _ in curves["train/loss"]] == [*range(1, 31)]
    assert [step for step, _ in curves["validation/bits_per_token"]] == [15, 30]
    assert {"train/grad_norm", "train/learning_rate", "train/tokens_per_second", "validation/loss"} <= set(curves)
    assert all(0 <= share <= 1 for _, share in curves["data/wait_share"])
    assert curves["memory/worker_1_mib"][0][1] > 50
    assert curves["validation/loss"][1][1] < curves["validation/loss"][0][1], "it learns"
    run_id = whole.output.split("MLflow run ")[1].split()[0]
    client = MlflowClient(f"sqlite:///{place}/runs/mlflow.db")
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    note = client.get_experiment(run.info.experiment_id).tags["mlflow.note.content"]
    named = set(re.findall("`(.+?)`", note))
    assert len(named) == 9
    assert named <= {*run.data.metrics, *run.data.params, *run.data.tags}, "what the note says to compare is there"
    pictures = {"learning_curve.png", "hash_health.png"}
    assert {a.path for a in client.list_artifacts(run_id)} == {"config.yaml", "sample.txt", *pictures}
    assert [step for step, _ in curves["hashing/layer_1/caught_one_round_more"]] == [15, 30]
    assert all(0 < share < 1 for _, share in curves["hashing/caught"])
    path = checkpoints.latest(str(place / "runs"), "whole")
    assert path in whole.output
    model, config, _ = checkpoints.read_model(path)
    assert config.model.embed_dim == 32
    assert sum(p.numel() for p in model.parameters()) > 10_000


def test_traffic_is_what_the_formula_says(place: Path, whole: Job) -> None:
    """Forward, replay, gradient: half of 3 n E values cross in the LSH layer, and W - 1 tokens in the local one."""
    curves = points(place, whole)
    rows, width, window, workers = 4, 32, 16, 2
    tokens = rows * 256
    a_worker = 3 * (3 * tokens / 2 + rows * (window - 1)) * width * 8 / workers
    sent = [value for _, value in curves["parallel/bytes_sent"]]
    assert sent == [pytest.approx(a_worker, rel=0.05)] * 30
    assert len(set(sent)) == 1, "validations between the steps do not count"
    seconds = [tokens / value for _, value in curves["train/tokens_per_second"]]
    waited = [value for _, value in curves["parallel/wait_seconds"]]
    assert all(0 < part < whole for part, whole in zip(waited, seconds, strict=True))


def test_the_overhead_suite_has_a_speed_of_the_job_and_of_a_bare_loop(place: Path, whole: Job) -> None:
    values = {"data.sources": str(place / "text"), "train.storage": str(place / "runs"), "data.sequence_length": 256}
    values |= {"data.validation_fraction": 0.2} | {f"model.{name}": value for name, value in MODEL.items()}
    values |= {"train.steps": 10, "train.batch_size": 4, "train.micro_batch_size": 2, "train.threads": 1}
    assert len(bare_loop.speeds(values)) == 5, "a speed a step, but for the first ones"
    assert overhead.speed_of(place / "runs", "whole") > 0


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"train__workers": 4096, "train__batch_size": 4096}, "train.workers = 4096 is more than"),
        ({"model__vocab_size": 100}, "model.vocab_size = 100 is less than data.tokenizer = bytes needs; 256 works"),
        ({"tracking__uri": "http://127.0.0.1:9"}, "tracking.uri = http://127.0.0.1:9 does not answer"),
        ({"train__storage": "/proc/runs"}, "train.storage = /proc/runs cannot be written"),
        ({"train__resume": "/nowhere"}, "train.resume = /nowhere: checkpoint /nowhere: no"),
        ({"data__sources": "/nowhere/*.txt"}, "data.sources"),
    ],
)
def test_mistakes_are_one_line_before_ray_starts(
    place: Path,
    options: dict[str, object],
    reason: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (line,) = refused(command(place, **options), capsys, monkeypatch)
    assert reason in line


def test_several_mistakes_are_a_line_each_in_the_order_in_which_to_mend_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    arguments = command(
        tmp_path,
        train__storage=tmp_path / "file" / "runs",
        train__resume="/nowhere",
        data__tokenizer="bpe",
        data__tokenizer_file=tmp_path / "none.json",
        data__sources=f"/nowhere/a.txt,{tmp_path},/nowhere/b.txt",
        train__workers=4096,
        train__batch_size=4096,
    )
    before = sorted(tmp_path.rglob("*"))
    lines = refused(arguments, capsys, monkeypatch)
    assert [line.split(": ")[1].split(" =")[0] for line in lines] == [
        "train.storage", "train.resume", "data.tokenizer_file", "data.sources", "data.sources", "train.workers"
    ]  # fmt: skip
    assert sorted(tmp_path.rglob("*")) == before, "nothing is written"


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines that the job ends with before Ray starts, on a command line that cannot be followed."""
    monkeypatch.setattr("sys.argv", arguments[1:])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "jobs/train.py"), run_name="__main__")
    assert ended.value.code == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert not ray.is_initialized()
    lines = errors.splitlines()
    assert all(line.startswith("train.py: ") for line in lines)
    return lines
