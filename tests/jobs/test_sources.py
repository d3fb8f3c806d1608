"""An encoder-decoder by the same jobs: it trains on pairs, goes on where it was left, is scored by its texts, and writes."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from reformer_dist import load_config, load_model, translate
from reformer_dist.scoring.evaluation import evaluate
from tests.jobs.running import ROOT, points, run_job

WORDS = {"one": "uno", "two": "dos", "three": "tres", "four": "cuatro"}
PAIRS: dict[str, Any] = {
    "objective__name": "pairs",
    "data__fields": json.dumps({"source": {"column": "en"}, "text": {"column": "es", "vocabulary_of": "source"}}),
    "data__sequence_length": 96,
    "data__source_length": 80,
    "data__validation_fraction": 0.2,
    "model__encoder_layers": "local,lsh",
    "model__cross_attention": "lsh",
    "model__keep": "auto",
    "evaluation__text_scores": "chrf,bleu",
    "evaluation__text_baseline": "copy",
    "evaluation__max_texts": 5,
    "generation__num_tokens": 20,
    "train__dtype": "float64",
    "train__validate_every": 4,
    "train__checkpoint_every": 4,
}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Numbers in two languages, lists of lines."""
    folder = tmp_path_factory.mktemp("pairs")
    (folder / "text").mkdir()
    rows = [[list(WORDS)[(index * 7 + place) % 4] for place in range(index % 5 + 1)] for index in range(60)]
    lines = [json.dumps({"en": row, "es": [WORDS[word] for word in row]}) for row in rows]
    (folder / "text" / "pairs.jsonl").write_text("\n".join(lines))
    return folder


def test_pairs_train_go_on_and_are_written_from(pairs: Path) -> None:
    whole = run_job(pairs, train__run_name="whole", train__steps=8, **PAIRS)
    assert (whole.status, whole.errors) == (0, "")
    assert "layers keep products: a step takes 0." in whole.output
    assert "5 of " in whole.output
    assert "texts written (validation): chrf" in whole.output
    expected = points(pairs, whole)
    assert [step for step, _ in expected["validation/chrf"]] == [8]
    assert [step for step, _ in expected["baseline/chrf"]] == [0]

    half = str(pairs / "runs/whole/1/step_00000004")
    rest = run_job(pairs, train__run_name="rest", train__resume=half, train__steps=8, **PAIRS)
    assert "continuing from step 4" in rest.output
    found = points(pairs, rest)
    for metric in ("train/loss", "validation/loss", "validation/accuracy"):
        assert found[metric] == [(step, value) for step, value in expected[metric] if step > 4], metric

    fields = {"train.storage": str(pairs / "runs"), "train.run_name": "whole"}
    result = evaluate(load_config(None, fields))
    assert result.written is not None
    assert result.written.figures["chrf"] == pytest.approx(expected["validation/chrf"][0][1])
    assert result.loss == pytest.approx(expected["validation/loss"][-1][1], rel=1e-9)

    begun = run_job(pairs, train__run_name="begun", train__steps=4, train__weights_from="runs/whole", **PAIRS)
    assert re.search(r"^(\d+) of \1 tensors begin as those of \S*runs/whole/1/step_00000008;", begun.output), (
        begun.output
    )
    started = points(pairs, begun)["train/loss"]
    assert started[0][0] == 1
    assert started[0][1] < expected["train/loss"][0][1] - 0.3, "it knows what the other one learned"

    (pairs / "sources.txt").write_text("one two\nthree\n")
    script = [sys.executable, str(ROOT / "jobs/generate.py"), "--train.storage", str(pairs / "runs")]
    options = ["--generation.prompts", "sources.txt", "--generation.num_beams", "2", "--generation.num_tokens", "9"]
    command = [*script, "--train.run_name", "whole", *options]
    job = subprocess.run([*command, "--generation.output", "texts.jsonl"], cwd=pairs, capture_output=True, text=True)
    assert job.returncode == 0, job.stderr
    texts = [json.loads(line) for line in (pairs / "texts.jsonl").read_text().splitlines()]
    assert [text["prompt"] for text in texts] == ["one two", "three"]
    model: Any = load_model("whole", str(pairs / "runs"))
    assert translate(model, ["one two", "three"], num_beams=2, num_tokens=9) == [text["text"] for text in texts]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__source_length": 10}, "data.source_length = 10 is less than the longest source needs"),
        ({"model__encoder_layers": None}, "objective.name = pairs has a source for an encoder to read"),
        (
            {"objective__name": "next_token", "evaluation__text_scores": ""},
            "have no source to read with objective.name",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_is_one_line_before_a_worker_starts(pairs: Path, changes: dict[str, Any], message: str) -> None:
    options = {**PAIRS, **changes}
    if options["model__encoder_layers"] is None:
        del options["model__encoder_layers"], options["data__source_length"]
    job = run_job(pairs, train__run_name="wrong", train__steps=4, **options)
    assert job.status != 0
    assert message in job.errors, job.errors
    assert "step" not in job.output
