"""The duplication task with other attention: the same words, the same model but for its attention, and its table."""

import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from reformer_dist.benchmarks.learning import duplication_peers
from reformer_dist.benchmarks.learning.duplication_peers import (
    EXACT,
    LSH,
    VARIANTS,
    Point,
    accuracy_of,
    make_model,
    summary,
    table,
    train,
    words,
)
from reformer_dist.benchmarks.learning.duplication_task import SIZES, Size

TINY = replace(SIZES["small"], length=16, embed_dim=32, keys=8, warm_up=10, test_sequences=32, batch_size=32)
RACE = "RACE, 4 tables of 16"


def test_words_are_the_tasks_and_only_the_second_is_scored() -> None:
    tokens_BT, labels_BT = words(200, TINY, np.random.default_rng(0))
    word_BW = tokens_BT[:, 1:8]
    assert tokens_BT.shape == labels_BT.shape == (200, 16)
    assert (tokens_BT[:, 0] == 0).all()
    assert (tokens_BT[:, 8] == 127).all()
    assert torch.equal(tokens_BT[:, 9:], word_BW)
    assert word_BW.unique().tolist() == [*range(1, 127)]
    assert (labels_BT[:, :8] == -100).all()
    assert torch.equal(labels_BT[:, 8:15], word_BW)
    assert (labels_BT[:, 15] == -100).all()


def test_models_differ_in_their_attention_alone() -> None:
    models = {variant: make_model(TINY, variant, seed=3) for variant in VARIANTS}
    others = {
        variant: {name: x for name, x in model.state_dict().items() if not name.startswith("stack.blocks.0.attention.")}
        for variant, model in models.items()
    }
    shapes = {variant: {name: x.shape for name, x in found.items()} for variant, found in others.items()}
    assert all(found == shapes[EXACT] for found in shapes.values())
    sizes = {variant: sum(x.numel() for x in model.parameters()) for variant, model in models.items()}
    assert sizes[EXACT] - sizes[LSH] == 32**2, "LSH has no keys of its own"
    assert {sizes[variant] - sizes[EXACT] for variant in duplication_peers.RACE} == {1}, "beta"
    tokens_BT = words(2, TINY, np.random.default_rng(0))[0]
    logits = [models[variant](tokens_BT) for variant in VARIANTS]
    assert all(not torch.allclose(logits[0], other) for other in logits[1:])


def test_race_learns() -> None:
    size = replace(TINY, learning_rate=2e-2, steps=60, evaluate_every=20)
    first, *_, last = train(size, RACE, seed=0)
    assert (last.length, last.variant, last.seed, last.step) == (16, RACE, 0, 60)
    assert last.cpu_seconds > first.cpu_seconds > 0
    assert last.loss < first.loss - 1
    assert last.accuracy > 0.5


def test_accuracy_is_of_the_scored_tokens_alone() -> None:
    model = make_model(TINY, EXACT, seed=0)
    tokens_BT, labels_BT = words(4, TINY, np.random.default_rng(0))
    likeliest_BT = model.eval()(tokens_BT).argmax(-1)
    labels_BT[:2, 8:15] = likeliest_BT[:2, 8:15]
    labels_BT[2:, 8:15] = (likeliest_BT[2:, 8:15] + 1) % 128
    assert accuracy_of(model.train(), tokens_BT, labels_BT) == 0.5
    assert model.training


def test_the_table_has_means_and_the_median_of_steps() -> None:
    points = [
        Point(16, variant, seed, step, 1.0, accuracy, step / 10)
        for variant, end in (("a", 1.0), ("b", 0.6))
        for seed in (0, 1, 2)
        for step, accuracy in ((10, 0.1), (20 + 10 * seed, 0.95 * end), (50, end))
    ]
    points += [point._replace(length=32, accuracy=0.0) for point in points if point.variant == "a"]
    rows = summary(points)
    assert [(row.length, row.variant) for row in rows] == [(16, "a"), (16, "b"), (32, "a")]
    assert [row.steps for row in rows] == [30, math.inf, math.inf]
    assert table(rows).splitlines()[1].split() == ["16", "a", "100.0%", "30", "5.0"]
    assert table(rows).splitlines()[2].split() == ["16", "b", "60.0%", "-", "5.0"]


def test_a_run_trains_every_variant_at_every_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = []

    def train(size: Size, variant: str, seed: int) -> list[Point]:
        trained.append((size.length, seed, variant))
        assert size.keys * 2 == size.length, "windows grow with sequences"
        return [Point(size.length, variant, seed, 1, 1.0, 0.5, 2.0)]

    monkeypatch.setattr(duplication_peers, "train", train)
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    monkeypatch.setitem(SIZES, "small", replace(TINY, seeds=(0, 1)))
    duplication_peers.run("small", tmp_path / "new")
    assert trained == [(16, seed, variant) for seed in (0, 1) for variant in VARIANTS]
    trained.clear()
    duplication_peers.run("small", tmp_path / "new", lengths=[32, 64], seeds=[5])
    assert trained == [(length, 5, variant) for length in (32, 64) for variant in VARIANTS]
    assert "1 seed(s)" in capsys.readouterr().out
    with (tmp_path / "new/duplication_peers-small.csv").open(newline="", encoding="utf-8") as file:
        assert [row["length"] for row in csv.DictReader(file)] == ["32"] * len(VARIANTS) + ["64"] * len(VARIANTS)
    with (tmp_path / "new/duplication_peers-small-curves.csv").open(newline="", encoding="utf-8") as file:
        assert len([*csv.DictReader(file)]) == 2 * len(VARIANTS)
