"""The recall benchmark: its sequences, whether a model learns them, and its table that goes on where it ended."""

import csv
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from reformer_dist.benchmarks.learning.book import Book
from reformer_dist.benchmarks.learning.recall import mqar
from reformer_dist.benchmarks.learning.recall.model import VARIANTS, ScoredLM, keys_of_exact, model_config, watched
from reformer_dist.benchmarks.learning.recall.mqar import SIZES, cells
from reformer_dist.benchmarks.learning.recall.mqar_report import best, figure, tables
from reformer_dist.benchmarks.learning.recall.mqar_task import POWER, SETTINGS, mqar_examples
from reformer_dist.benchmarks.learning.recall.mqar_training import Cell, Outcome, Training, accuracy_of, rate_at, train
from reformer_dist.errors import ConfigError

TINY = Training(batch_size=32, steps=60, warm_up=10, evaluate_every=20, held_out=64, vocabulary=32)
CELL = Cell("default", "full", 16, 2, 32, 1e-2, 0)
OUTCOME = Outcome(accuracy=0.5, loss=1.0, steps=10, cpu_seconds=2.5, keys_seen=8.5, value_seen=math.nan)


@pytest.mark.parametrize(("length", "pairs"), [*SETTINGS, (16, 4), (40, 3)])
def test_every_query_has_its_pair_before_it_and_the_label_is_its_value(length: int, pairs: int) -> None:
    drawn = mqar_examples(20, length, pairs, torch.Generator().manual_seed(1))
    assert drawn.tokens_BT.shape == (20, length)
    assert drawn.tokens_BT.max() < 8192
    for tokens, queries, answers in zip(
        drawn.tokens_BT.tolist(), drawn.queries_BQ.tolist(), drawn.answers_BQ.tolist(), strict=True
    ):
        keys, values = tokens[: 2 * pairs : 2], tokens[1 : 2 * pairs : 2]
        assert len(set(keys)) == len(set(values)) == len(set(queries)) == pairs
        assert all(1 <= key < 4096 <= value < 8192 for key, value in zip(keys, values, strict=True))
        for position, answer in zip(queries, answers, strict=True):
            assert position >= 2 * pairs
            assert position % 2 == 0
            assert tokens[tokens.index(tokens[position]) + 1] == answer
            assert tokens.index(tokens[position]) < 2 * pairs
        asked = set(queries)
        assert all(token == 0 for place, token in enumerate(tokens) if place >= 2 * pairs and place not in asked)


def test_places_of_queries_follow_the_power_law() -> None:
    """The place of the first key's query, which is drawn first and so without regard to the others."""
    number, length, pairs = 20_000, 64, 4
    drawn = mqar_examples(number, length, pairs, torch.Generator().manual_seed(0), vocabulary=64)
    found = Counter(((drawn.queries_BQ[:, 0] - 2 * pairs) // 2).tolist())
    weights = [(gap + 1) ** (POWER - 1) for gap in range((length - 2 * pairs) // 2)]
    for gap, weight in enumerate(weights):
        expected = number * weight / sum(weights)
        assert abs(found[gap] - expected) < 5 * math.sqrt(expected), f"gap {gap}: five standard deviations"


def test_keys_are_drawn_evenly_and_the_seed_makes_the_sequences() -> None:
    drawn = mqar_examples(5000, 16, 2, torch.Generator().manual_seed(0), vocabulary=12)
    counts = Counter(drawn.tokens_BT[:, 0].tolist())
    assert sorted(counts) == [1, 2, 3, 4, 5]
    assert all(abs(count - 1000) < 5 * math.sqrt(1000) for count in counts.values())
    again, other = (mqar_examples(5000, 16, 2, torch.Generator().manual_seed(seed), vocabulary=12) for seed in (0, 1))
    assert torch.equal(drawn.tokens_BT, again.tokens_BT)
    assert not torch.equal(drawn.tokens_BT, other.tokens_BT)


@pytest.mark.parametrize(("length", "pairs", "vocabulary"), [(15, 2, 32), (16, 5, 32), (16, 4, 9)])
def test_what_has_no_room_is_refused(length: int, pairs: int, vocabulary: int) -> None:
    with pytest.raises(ValueError, match="works"):
        mqar_examples(1, length, pairs, torch.Generator(), vocabulary)


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_at_some_positions_are_those_of_the_whole_model(variant: str) -> None:
    model = ScoredLM(model_config(variant, "default", 32, 32, 24, seed=3)).eval()
    drawn = mqar_examples(3, 32, 3, torch.Generator().manual_seed(0), vocabulary=24)
    whole_BTV = model(drawn.tokens_BT)
    expected_BQV = torch.stack([x[q] for x, q in zip(whole_BTV, drawn.queries_BQ, strict=True)])
    torch.testing.assert_close(model.logits_at(drawn.tokens_BT, drawn.queries_BQ), expected_BQV)


def test_a_query_sees_far_fewer_keys_than_with_full_attention() -> None:
    for length, _ in SETTINGS:
        full, local, lsh = (model_config(name, "default", length, 64, 8192, 0) for name in ("full", "local", "lsh-4"))
        assert keys_of_exact(full) == (length + 1) / 2
        assert keys_of_exact(local) <= length / 8
        assert math.prod(lsh.bucket_factors) == 16
        assert lsh.lsh_window == length // 8


@pytest.mark.parametrize(
    ("recipe", "seen"),
    [("own values", 0.5), ("default", 0.25)],
    ids=["four and one tokens back are seen, five and nine are not", "the key before the value is one further back"],
)
def test_sight_tells_whether_a_query_shares_a_bucket_with_its_value(recipe: str, seen: float) -> None:
    """With one bucket a query sees its nearest predecessors, however the model hashes."""
    config = model_config("lsh-1", recipe, 32, 32, 24, seed=0).model_copy(update={"num_buckets": 1, "lsh_window": 4})
    model, tokens = ScoredLM(config).eval(), torch.zeros(2, 32, dtype=torch.int64)
    queries, targets = torch.tensor([[10, 20], [30, 9]]), torch.tensor([[6, 15], [29, 0]])
    with watched(model, queries, targets) as sight:
        model(tokens)
    assert sight.by_layer == {0: seen, 1: seen}
    model(tokens[:, :3])
    assert sight.by_layer == {0: seen, 1: seen}, "nothing is watched after the block"


def test_the_learning_rate_grows_and_falls() -> None:
    rates = [rate_at(step, TINY.steps, TINY.warm_up) for step in range(1, TINY.steps + 1)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == max(rates) == 1
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.01


def test_a_tiny_model_learns_a_tiny_instance() -> None:
    lines: list[str] = []
    outcome = train(replace(CELL, learning_rate=5e-3), replace(TINY, steps=200, evaluate_every=25), lines.append)
    assert outcome.accuracy > 0.9, lines
    assert len(lines) == math.ceil(outcome.steps / 25)
    assert outcome.keys_seen == 8.5
    assert math.isnan(outcome.value_seen)


def test_a_training_ends_when_it_has_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reformer_dist.benchmarks.learning.recall.mqar_training.ENOUGH", 0.0)
    outcome = train(replace(CELL, variant="lsh-2"), TINY, lambda line: None)
    assert outcome.steps == TINY.evaluate_every
    assert 0 <= outcome.value_seen <= 1
    assert 0 < outcome.keys_seen < 8.5


def test_accuracy_counts_queries_whatever_the_rows_at_a_time() -> None:
    model = ScoredLM(model_config("full", "default", 16, 32, 32, seed=0))
    drawn = mqar_examples(10, 16, 2, torch.Generator().manual_seed(0), vocabulary=32)
    answers = model.eval().logits_at(drawn.tokens_BT, drawn.queries_BQ).argmax(-1)
    answers[:3, 0] = 31 - answers[:3, 0]
    assert accuracy_of(model.train(), replace(drawn, answers_BQ=answers), rows=4) == pytest.approx(17 / 20)
    assert model.training


def test_a_book_is_read_again_and_keeps_the_best_rate(tmp_path: Path) -> None:
    path = tmp_path / "new/rows.csv"
    book = Book(path, Cell, Outcome)
    for rate, accuracy in ((1e-3, 0.2), (1e-2, 0.7), (1e-4, 0.1)):
        book.add(replace(CELL, learning_rate=rate), replace(OUTCOME, accuracy=accuracy))
    book.add(replace(CELL, variant="local"), OUTCOME)
    again = Book(path, Cell, Outcome)
    assert [row.cell for row in again.rows] == [row.cell for row in book.rows]
    assert [row.outcome.accuracy for row in again.rows] == [0.2, 0.7, 0.1, 0.5]
    assert [(row.cell.variant, row.outcome.accuracy) for row in best(again.rows)] == [("full", 0.7), ("local", 0.5)]
    path.write_text("other,columns\n")
    with pytest.raises(ValueError, match="works"):
        Book(path, Cell, Outcome)


def test_the_table_has_a_line_for_each_variant_and_the_mean_of_seeds(tmp_path: Path) -> None:
    book = Book(tmp_path / "rows.csv", Cell, Outcome)
    for seed, accuracy in ((0, 0.9), (1, 1.0)):
        book.add(replace(CELL, seed=seed), replace(OUTCOME, accuracy=accuracy))
    book.add(replace(CELL, variant="lsh-4", length=32), replace(OUTCOME, keys_seen=3.0, value_seen=0.75))
    lines = [line.split() for line in tables(best(book.rows)).splitlines()]
    assert lines[2:] == [
        ["default", "full", "95.0%", "-", "8.5"],
        ["default", "lsh-4", "-", "50.0%", "3.0;", "75"],
    ]
    axes = figure(best(book.rows)).axes
    assert [[*line.get_ydata()] for line in axes[0].get_lines()] == [[95.0], [50.0]]


def test_a_run_goes_on_where_its_file_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = replace(SIZES["small"], settings=((16, 2),), learning_rates=(1e-2, 1e-3), variants=("full", "local"))
    monkeypatch.setitem(SIZES, "small", size)
    trained = []

    def learn(cell: Cell, training: Training) -> Outcome:
        trained.append(cell)
        return replace(OUTCOME, accuracy=1.0 if cell.variant == "full" else 0.3)

    monkeypatch.setattr(mqar, "train", learn)
    mqar.run("small", tmp_path)
    assert trained == [cell for cell in cells(size) if cell.variant == "local" or cell.learning_rate == 1e-2]
    mqar.run("small", tmp_path)
    assert len(trained) == 3, "nothing is trained twice, and no further rate of what has learnt"
    with (tmp_path / "recall-small.csv").open(newline="") as file:
        assert [row["variant"] for row in csv.DictReader(file)] == ["full", "local", "local"]
    assert (tmp_path / "recall-small.png").stat().st_size > 10_000


def test_variants_and_recipes_are_chosen_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[Cell] = []

    def learn(cell: Cell, training: Training) -> Outcome:
        trained.append(cell)
        return replace(OUTCOME, accuracy=1.0)

    monkeypatch.setattr(mqar, "train", learn)
    mqar.run("paper", tmp_path, only=("lsh-4", "full", "no convolution"))
    assert {cell.recipe for cell in trained} == {"no convolution"}
    assert [cell.variant for cell in trained] == ["full", "lsh-4"] * 8, "all lengths and widths"
    with pytest.raises(ConfigError, match=r"^--only lsh-3: .* works$"):
        mqar.run("paper", tmp_path, only=("lsh-3",))


def test_the_first_cells_compare_all_attentions_at_the_shortest_length() -> None:
    first = [*cells(SIZES["paper"])][: len(VARIANTS)]
    assert [cell.variant for cell in first] == [*VARIANTS]
    assert {(cell.length, cell.width) for cell in first} == {(64, 64)}
