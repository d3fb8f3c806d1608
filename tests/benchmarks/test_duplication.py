"""The duplication benchmark: its sequences, its yardstick, and that a few steps of training go the right way."""

import csv
import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from reformer_dist.benchmarks.learning import (
    buckets,
    duplication,
    duplication_corpus,
    duplication_report,
    duplication_task,
)
from reformer_dist.benchmarks.learning.duplication import evaluate, prepared, train
from reformer_dist.benchmarks.learning.duplication_report import Point, Score, steps_to_learn, tables
from reformer_dist.benchmarks.learning.duplication_task import SIZES, Size, attention, documents, keys_seen
from reformer_dist.data.feeding.loader import validation_batches
from reformer_dist.model.attention.lsh.attention import lsh_attention
from reformer_dist.model.backends.description import unit_keys
from reformer_dist.objectives.choice import make_objective
from tests.corpora import grid_config, prepare_here

TINY = replace(SIZES["small"], length=16, embed_dim=32, keys=8, warm_up=10, test_sequences=32)


def test_examples_hold_a_random_word_twice_and_score_only_the_second(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    with (tmp_path / "source/documents.jsonl").open("w") as file:
        for text in documents(50, 12, duplication.SYMBOLS, duplication.SEPARATOR, seed=3):
            file.write(f"{json.dumps({'text': text})}\n")
    corpus = prepare_here(tmp_path / "source/documents.jsonl", tmp_path, 0.5)
    config = grid_config(1, 1, data__sequence_length=12, objective__name="copy")
    objective = make_objective(config.objective)
    batches = [*validation_batches(corpus, config, objective, 0, 0, 1)]
    tokens = torch.cat([batch.tokens_BT for batch in batches])
    labels = torch.cat([batch.labels_BT for batch in batches])
    assert len(tokens) > 10
    word = tokens[:, 1:6]
    assert torch.equal(word, tokens[:, 7:])
    assert (tokens[:, 0] == 0).all()
    assert (tokens[:, 6] == 127).all()
    assert word.min() >= 1
    assert word.max() <= 126
    assert len(word.unique()) > min(126, word.numel()) / 2
    assert torch.equal(labels[:, 6:11], tokens[:, 7:])
    assert (labels[:, :6] == -100).all()
    assert (labels[:, 11] == -100).all()


def test_documents_are_the_same_for_the_same_seed_only() -> None:
    def some(seed: int) -> list[str]:
        return list(documents(4, 8, duplication.SYMBOLS, duplication.SEPARATOR, seed))

    assert some(5) == some(5)
    assert some(5) != some(6)


def test_documents_hold_a_random_word_twice_half_a_sequence_apart() -> None:
    texts = list(documents(100, 32, duplication_corpus.LETTERS, "\n"))
    assert {len(text) + 1 for text in texts} == {32}, "with its boundary a document is a sequence"
    assert all(text[:15] == text[16:] and text[15] == "\n" for text in texts)
    assert set("".join(texts)) == {*duplication_corpus.LETTERS, "\n"}
    assert len({*duplication_corpus.LETTERS, "\n"}) == 65
    assert len(set(texts)) == 100
    assert duplication_corpus.bits(32, copies=False) == 2 * duplication_corpus.bits(32, copies=True) == 30 * 6 / 32


@pytest.mark.parametrize("length", [2, 13])
def test_a_length_that_cannot_hold_two_words_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=r"length = .* works"):
        next(documents(1, length, "ab", "\n"))


def test_the_full_setting_is_exact_attention_with_shared_queries_and_keys() -> None:
    generator = torch.Generator().manual_seed(0)
    qk, v = torch.randn(2, 1, TINY.length, 2, 8, dtype=torch.float64, generator=generator)
    settings = attention(TINY, "chunked", 0)
    out = lsh_attention(
        qk, v, torch.empty(8, 1, 0), num_buckets=settings["num_buckets"], window=settings["lsh_window"], mode="window"
    )
    earlier = torch.ones(TINY.length, TINY.length, dtype=torch.bool).tril(-1)
    earlier[0, 0] = True  # the first token has nothing but itself
    scores = torch.einsum("bthd,bshd->bhts", qk, unit_keys(qk)).masked_fill(~earlier, -torch.inf)
    expected = torch.einsum("bhts,bshd->bthd", scores.softmax(-1), v)
    torch.testing.assert_close(out, expected)


def test_keys_seen_counts_predecessors_up_to_the_window() -> None:
    assert keys_seen(TINY, "window", num_buckets=1) == TINY.keys  # the second half of 16 has 8 or more predecessors
    everything = replace(TINY, keys=32)
    assert keys_seen(everything, "window", num_buckets=1) == 11.5  # 8 to 15 predecessors, all of them seen
    assert keys_seen(everything, "chunked", num_buckets=2) == 11.5  # one chunk
    assert 1 < keys_seen(TINY, "chunked") < TINY.keys
    assert keys_seen(TINY, "window", num_buckets=4) < keys_seen(TINY, "window", num_buckets=2)


def test_training_learns_and_other_rounds_evaluate_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the ordinary trainer."""
    monkeypatch.setattr(duplication_task, "NUM_DOCUMENTS", 2000)
    size = replace(TINY, batch_size=32, learning_rate=2e-2, steps=40, evaluate_every=10)
    with prepared(size) as folder:
        checkpoint, curve = train(folder, size, "chunked", rounds=2, seed=0)
        (_, first_loss, first_accuracy), *_, (last_step, last_loss, last_accuracy) = curve
        assert [step for step, _, _ in curve] == [10, 20, 30, 40]
        assert last_step == size.steps
        assert last_loss < first_loss - 1
        assert last_accuracy > first_accuracy + 0.3
        scores = dict(evaluate(folder, size, "chunked", checkpoint))
        assert list(scores) == [0, 8, 4, 2, 1]
        assert scores[8] > scores[1]


def test_the_tables_average_seeds_and_name_what_did_not_learn() -> None:
    scores = [
        Score(mode, trained, n, seed, 0.5 + 0.25 * seed)
        for mode in ("window", "chunked")
        for trained in (0, 4, 2, 1)
        for n in (0, 8)
        for seed in (0, 1)
    ]
    points = [
        Point(mode, rounds, seed, step, 1.0, 0.95 if step >= 20 and rounds != 1 else 0.2)
        for mode in ("window", "chunked")
        for rounds in (0, 4, 2, 1)
        for seed in (0, 1)
        for step in (10, 20, 30)
    ]
    assert steps_to_learn(points, "window", 4) == 20
    assert steps_to_learn(points, "window", 1) is None
    lines = tables(scores, points, "a title").splitlines()
    assert "trained LSH-4         62.5    62.5" in lines
    assert lines[-1].split() == ["chunked", "20", "20", "20", "-"]


def test_a_run_prints_its_tables_and_writes_what_they_were_made_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of one seed and two of the four trainings in each mode, since each training starts workers."""
    monkeypatch.setattr(duplication_task, "NUM_DOCUMENTS", 400)
    monkeypatch.setattr(duplication_report, "TRAINED_WITH", (0, 2))
    monkeypatch.setattr(duplication, "TRAINED_WITH", (0, 2))
    monkeypatch.setitem(SIZES, "small", replace(TINY, steps=2, evaluate_every=1, seeds=(0,), test_sequences=4))
    duplication.run("small", tmp_path / "new")
    output = capsys.readouterr().out
    assert "Duplication, length 16, up to 8 keys a round" in output
    assert "tokens/s" not in output, "what the trainings print goes to their log"
    with (tmp_path / "new/duplication-small.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 5
    full = {(row["mode"], row["accuracy"]) for row in rows if row["trained_rounds"] == row["evaluated_rounds"] == "0"}
    assert len(full) == 2 * len({accuracy for _, accuracy in full})  # full attention is the same training in both modes
    assert (tmp_path / "new/duplication-small.png").stat().st_size > 10_000


def test_the_buckets_suite_tries_each_count_in_both_modes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With trainings that learn at once: the real ones are those of the duplication suite."""
    monkeypatch.setitem(SIZES, "small", replace(TINY, steps=1, evaluate_every=1, seeds=(0,), test_sequences=4))
    trained = []

    def train(folder: Path, size: Size, *kind: object) -> tuple[str, list[tuple[int, float, float]]]:
        trained.append(kind)
        return "a checkpoint", [(size.steps, 0.1, 1.0)]

    monkeypatch.setattr(buckets, "train", train)
    monkeypatch.setattr(buckets, "prepared", lambda size: nullcontext(tmp_path))
    buckets.run("small", tmp_path)
    with (tmp_path / "buckets-small.csv").open(newline="") as file:
        tried = [(row["mode"], row["tokens_a_bucket"], row["num_buckets"]) for row in csv.DictReader(file)]
    one_mode = [("16", "1"), ("8", "2"), ("4", "4"), ("2", "8")]
    assert tried == [(mode, *counts) for mode in ("window", "chunked") for counts in one_mode]
    assert trained == [(mode, 1, 0, int(number)) for mode, _, number in tried]
