"""The suite of learning rates: every shape at every multiple, each as large as it says."""

import csv
from pathlib import Path

import pytest

from reformer_dist.benchmarks.learning.quality import rates, results
from reformer_dist.benchmarks.learning.quality.corpora import Corpus
from reformer_dist.benchmarks.learning.quality.recipes import make_model, num_parameters
from reformer_dist.benchmarks.learning.quality.scoring import PositionBits
from reformer_dist.benchmarks.learning.quality.training import Outcome, Point, Task
from tests.benchmarks.test_quality import corpus


def test_rates_are_tried_for_every_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[int, int, float, int]] = []

    def train_(task: Task, corpus: Corpus) -> Outcome:
        model = make_model(task.fields, task.length, task.seed)
        tried.append((num_parameters(model), task.tokens_per_step, task.scale, task.seed))
        return Outcome(task.scale, 10, 7.0, 7.0, 1, [Point(7.0, 10, 2.0)], [PositionBits(0, 64, 2.0)])

    monkeypatch.setattr(results, "train", train_)
    monkeypatch.setattr(rates, "standard_library", lambda num_blocks: corpus())
    rates.run("small", tmp_path, seeds=(3,), only=("base", "width 64", "batches of 16,384 tokens"))
    assert [(tokens, scale) for _, tokens, scale, _ in tried] == [
        (tokens, scale) for tokens in (4096, 4096, 16_384) for scale in (0.5, 1.0, 2.0)
    ]
    (base, *_), (narrow, *_) = tried[0], tried[3]
    assert narrow < base / 3, "a smaller model stays smaller"
    assert {seed for *_, seed in tried} == {3}
    with (tmp_path / "rates-small-fox.csv").open() as file:
        assert [row["name"] for row in csv.DictReader(file)][:2] == ["base, rate x 0.5", "base, rate x 1"]
