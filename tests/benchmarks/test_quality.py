"""The quality suite: its clock and schedule, its models, what it scores, and that finished trainings are not repeated."""

import csv
import itertools
import json
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from reformer_dist.benchmarks.learning.quality import (
    ablation,
    clock,
    corpora,
    report,
    results,
    sizes,
    suite,
)
from reformer_dist.benchmarks.learning.quality.clock import Clock, learning_rate_factor
from reformer_dist.benchmarks.learning.quality.corpora import Corpus, spread_blocks, text_file
from reformer_dist.benchmarks.learning.quality.recipes import (
    CHANGES,
    VARIANTS,
    Fields,
    make_model,
    make_optimizer_of,
    num_parameters,
    optimizer_config,
    with_equal_parameters,
)
from reformer_dist.benchmarks.learning.quality.results import Results
from reformer_dist.benchmarks.learning.quality.scoring import PositionBits, by_position, held_out_bits
from reformer_dist.benchmarks.learning.quality.training import SCORED_AT, Outcome, Point, Task, train
from reformer_dist.benchmarks.learning.quality.transformer import Transformer, angles, rotated
from reformer_dist.config import ModelConfig
from reformer_dist.errors import ConfigError
from reformer_dist.model.layers.output import IGNORED

TINY: Fields = {"model.embed_dim": 32, "model.num_heads": 2, "model.layers": "local,lsh", "model.feed_forward_dim": 64}
SENTENCE = b"the quick brown fox jumps over the lazy dog. "


def corpus(size: int = 128) -> Corpus:
    text = np.frombuffer(SENTENCE * 200, np.uint8)
    return Corpus("fox", text, spread_blocks(text, 2, size))


def task(name: str = "tiny", fields: Fields = TINY, seconds: float = 0.05) -> Task:
    return Task("fox 0", 64, name, fields, seconds, 0, 1.0, 128)


def test_the_clock_counts_only_what_runs() -> None:
    watch = Clock(allowed=0.05)
    with watch.running():
        spend(0.02)
    used = watch.cpu_seconds
    assert used >= 0.02
    spend(0.02)
    assert watch.cpu_seconds == used
    assert watch.share == pytest.approx(used / 0.05)
    with watch.running():
        spend(0.01)
    assert watch.cpu_seconds >= used + 0.01


def spend(seconds: float) -> None:
    start = time.process_time()
    while time.process_time() < start + seconds:
        pass


def test_learning_rate_rises_stays_and_falls_to_zero() -> None:
    shares = np.linspace(0, 1, 201)
    factors = [learning_rate_factor(share) for share in shares]
    assert factors[0] == pytest.approx(0.1)
    assert {factor for share, factor in zip(shares, factors, strict=True) if 0.03 <= share <= 0.7} == {1.0}
    assert all(second > first for first, second in pairwise(factors[:7]))
    assert all(second < first for first, second in pairwise(factors[141:]))
    assert learning_rate_factor(0.85) == pytest.approx(0.5)
    assert factors[-1] == learning_rate_factor(1.2) == 0.0


@pytest.mark.parametrize("length", [1024, 16_384])
def test_all_variants_and_changes_have_equal_parameters(length: int) -> None:
    wanted = num_parameters(make_model({}, length, 0))
    for fields in (*VARIANTS.values(), *CHANGES.values()):
        found = num_parameters(make_model(with_equal_parameters(fields, length), length, 0))
        assert abs(found / wanted - 1) < 0.02, fields


def test_a_width_that_fields_give_is_kept() -> None:
    assert with_equal_parameters(TINY, 64) == TINY


def transformer(**fields: float) -> Transformer:
    sizes = {"embed_dim": 32, "num_heads": 2, "feed_forward_dim": 64, "layers": ("full",) * 2, "max_length": 64}
    model = Transformer(ModelConfig(**sizes, **fields))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # what starts at zero would hide all of it
        for weight in model.parameters():
            weight.normal_(std=0.3, generator=generator)
    return model


def test_the_transformer_scores_no_token_without_a_label() -> None:
    model, tokens = transformer(), torch.arange(64)[None]
    labels = torch.full_like(tokens, IGNORED)
    labels[0, 9] = 7
    loss, number = model.loss(tokens, labels)
    assert number == 1
    torch.testing.assert_close(loss, -model(tokens)[0, 9].log_softmax(-1)[7])


def test_the_transformer_drops_in_training_alone() -> None:
    model, tokens = transformer(hidden_dropout=0.5), torch.arange(64)[None]
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    torch.testing.assert_close(model(tokens), model(tokens), atol=0, rtol=0)


def test_the_transformer_sees_what_is_before_and_nothing_else() -> None:
    model = transformer()
    tokens = torch.randint(256, (2, 64), generator=torch.Generator().manual_seed(0))
    other = tokens.clone()
    other[:, 40] = (other[:, 40] + 1) % 256
    with torch.no_grad():
        change = (model(tokens) - model(other)).abs().amax(dim=(0, 2))
    assert change[:40].max() == 0
    assert change[40:].min() > 0, "each later token sees it"


def test_the_transformer_knows_distances_alone() -> None:
    """Rotary positions: queries and keys that are moved alike have the same products."""
    q = torch.randn(1, 1, 8, 16, dtype=torch.float64)
    turned = angles(32, 16).double()
    near, far = rotated(q, turned[:8]), rotated(q, turned[20:28])
    torch.testing.assert_close(near @ near.transpose(2, 3), far @ far.transpose(2, 3), atol=1e-5, rtol=0)
    assert (near - far).abs().max() > 0.1


@pytest.mark.parametrize("fields", [{"architecture": "transformer"}, {}], ids=["transformer", "local,lsh"])
def test_a_tiny_text_is_learned(fields: Fields, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that goes on by 0.01 at each step, so that every machine takes 150 steps."""
    ticks = itertools.count()
    monkeypatch.setattr(
        clock, "time", SimpleNamespace(process_time=lambda: next(ticks) / 100, perf_counter=lambda: 0.0)
    )
    found = train(task(fields={**TINY, **fields}, seconds=1.5), corpus())
    assert found.curve[0].bits > 2 * found.bits
    assert found.bits < 2.5, "unigram frequencies take 4.2"
    assert [point.cpu_seconds / 1.5 >= share for point, share in zip(found.curve, SCORED_AT, strict=True)] == [True] * 6
    assert found.tokens == found.curve[-1].tokens == pytest.approx(150 * 128, abs=128)
    assert found.cpu_seconds == found.curve[-1].cpu_seconds


def test_a_loss_that_is_not_finite_ends_the_training() -> None:
    found = train(replace(task(seconds=30.0), scale=1e30), corpus())
    assert found.bits == float("inf")
    assert found.cpu_seconds < 15
    assert Outcome.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_muon_has_the_layers_matrices_and_adamw_all_else() -> None:
    for fields in ({**TINY, "architecture": "transformer"}, TINY):
        model = make_model(fields, 64, 0)
        *adamw, muon = make_optimizer_of(model, optimizer_config(fields, scale=2.0)).param_groups
        assert len(muon["params"]) == (2 * 6 if "architecture" in fields else 6 + 5), "LSH: no keys"
        assert sum(len(group["params"]) for group in (*adamw, muon)) == len(list(model.parameters()))
        assert [group["peak_lr"] for group in (*adamw, muon)] == [0.02, 0.02, 0.04]
        alone = make_optimizer_of(model, optimizer_config({"optimizer.name": "adamw"}, scale=1.0))
        assert isinstance(alone, torch.optim.AdamW)


def test_bits_by_position_sum_to_the_total() -> None:
    model = transformer()
    for length in (64, 128):
        bits = held_out_bits(make_model(TINY, length, 0), corpus(128), length)
        assert bits.shape == (256 // length, length)
        buckets = by_position(bits)
        assert [bucket.end for bucket in buckets] == [bucket.start for bucket in buckets[1:]] + [length]
        total = sum((bucket.end - bucket.start) * bucket.bits for bucket in buckets)
        assert total == pytest.approx(length * float(bits.mean()))
    one_by_one = held_out_bits(model, corpus(128), 64)
    tokens, labels = corpus(128).held_out_sequences(64)
    with torch.no_grad():
        loss, count = model.loss(tokens, labels)
    assert float(one_by_one.sum()) == pytest.approx(float(loss) / np.log(2), rel=1e-5)
    assert int(count) == one_by_one.numel()


def test_held_out_bytes_are_scored_once_at_each_length() -> None:
    corpus_ = corpus(128)
    for length in (32, 128):
        tokens, labels = corpus_.held_out_sequences(length)
        assert tokens.shape == (256 // length, length)
        assert sorted(labels.flatten().tolist()) == sorted(corpus_.held_out[:, 1:].flatten().tolist())
        assert torch.equal(tokens[:, 1:], labels[:, :-1])


def test_the_end_of_a_text_is_held_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora, "BLOCK", 64)
    text = bytes(range(200)) * 10
    (tmp_path / "book.txt").write_bytes(text)
    found = text_file(tmp_path / "book.txt", 2)
    assert found.name == "book"
    assert found.training.tobytes() == text[:-129]
    assert found.held_out.tobytes() == text[-129:-64] + text[-65:]
    with pytest.raises(ConfigError, match=r"has 2,000 bytes; one of .* works"):
        text_file(tmp_path / "book.txt", 40)
    with pytest.raises(ConfigError, match="gone"):
        text_file(tmp_path / "gone.txt", 2)


def outcome(bits: float) -> Outcome:
    curve = [Point(second, 1000 * second, bits + 1 / second) for second in (1, 2, 4)]
    return Outcome(bits, 4000, 4.0, 5.0, 800_000, curve, [PositionBits(0, 16, bits + 0.1), PositionBits(16, 64, bits)])


def test_finished_trainings_are_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[Task] = []

    def fake_train(task: Task, corpus: Corpus) -> Outcome:
        trained.append(task)
        return outcome(2.0 + task.scale)

    monkeypatch.setattr(results, "train", fake_train)
    path = tmp_path / "runs/done.jsonl"
    found = Results(path).finished(task(), corpus())
    with path.open("a") as file:
        file.write('{"task": {"corpus": "a line that was cut')
    again = Results(path)
    assert again.finished(task(), corpus()) == found == outcome(3.0)
    assert len(trained) == 1
    for other in (replace(task(), seed=1), replace(task(), fields={**TINY, "model.activation": "relu2"})):
        again.finished(other, corpus())
    assert len(trained) == 3
    assert len(list(Results(path))) == 3


def test_each_variant_is_trained_at_its_best_learning_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[Task] = []

    def fake_train(task: Task, corpus: Corpus) -> Outcome:
        trained.append(task)
        best = {"local,lsh": 0.5, "full": 4.0}.get(task.name, 1.0)
        return outcome(2.0 + abs(task.scale - best))

    monkeypatch.setattr(results, "train", fake_train)
    monkeypatch.setattr(suite, "standard_library", lambda num_blocks: corpus())
    size = replace(sizes.SIZES["small"], lengths=(64,), seeds=(0, 1), seconds=3.0, tuning_seconds=1.0)
    monkeypatch.setitem(suite.SIZES, "small", size)
    suite.run("small", tmp_path)
    long = [task for task in trained if task.seconds == 3.0]
    assert {(task.name, task.scale) for task in long} == {
        ("local,lsh", 0.5),
        ("full", 4.0),
        ("local,local,local,lsh", 1.0),
        ("local", 1.0),
        ("lsh", 1.0),
        ("transformer", 1.0),
    }
    assert [task.seed for task in long] == [0] * len(VARIANTS) + [1] * len(VARIANTS)
    short = [task for task in trained if task.seconds == 1.0]
    assert {task.num_points for task in short} == {1}
    tried = [task.scale for task in short if task.name == "full"]
    assert tried == [1.0, 0.5, 2.0, 4.0, 8.0], "until neither half nor double is better"
    assert [task.scale for task in short if task.name == "lsh"] == [1.0, 0.5, 2.0]
    assert len(trained) == len(long) + len(short)
    assert {path.name for path in tmp_path.iterdir()} == {
        f"quality-small-fox{end}"
        for end in (".jsonl", ".csv", "-curves.csv", "-curves.png", "-positions.csv", "-positions.png")
    }
    suite.run("small", tmp_path)
    assert len(trained) == 2 * len(VARIANTS) + len(short)
    del trained[:]
    suite.run("small", tmp_path, seeds=(0,), seconds=6.0, only=("local", "lsh"), lengths=(32,))
    assert {(task.name, task.length) for task in trained} == {("local", 32), ("lsh", 32)}
    assert {task.seconds for task in trained} == {6.0, 2.0}, "those that choose a learning rate become as much longer"


def test_the_ablation_changes_one_thing_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(results, "train", lambda task, corpus: outcome(2.0 + 0.01 * len(task.fields) + task.seed))
    monkeypatch.setattr(ablation, "standard_library", lambda num_blocks: corpus())
    ablation.run("small", tmp_path, seeds=(0, 1))
    with (tmp_path / "ablation-small-fox.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == list(CHANGES)
    assert float(rows[0]["bits"]) == 2.5
    table = capsys.readouterr().out.partition("against base")[2]
    assert "+0.020" in next(line for line in table.splitlines() if "AdamW alone" in line)


def test_the_ablation_of_some_changes_at_another_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[Task] = []

    def fake_train(task: Task, corpus: Corpus) -> Outcome:
        trained.append(task)
        return outcome(2.0)

    monkeypatch.setattr(results, "train", fake_train)
    monkeypatch.setattr(ablation, "standard_library", lambda num_blocks: corpus())
    ablation.run("small", tmp_path, seeds=(3,), seconds=7.0, only=("GELU", "local alone"))
    assert [(task.name, task.seconds, task.seed) for task in trained] == [("local alone", 7.0, 3), ("GELU", 7.0, 3)]
    with pytest.raises(ConfigError, match=r"^--only GeLU: no such variant or change; GELU works$"):
        ablation.run("small", tmp_path, only=("GeLU",))


def test_every_change_is_a_configuration() -> None:
    for fields in (*VARIANTS.values(), *CHANGES.values()):
        make_model({**TINY, **fields}, 64, 0)
        optimizer_config(fields, 1.0)
        assert {key.split(".")[0] for key in fields} <= {"architecture", "model", "optimizer"}


def test_tables_and_pictures() -> None:
    rows = [
        (replace(task(name), length=length, seed=seed), outcome(bits + 0.2 * seed))
        for length in (64, 128)
        for name, bits in (("local,lsh", 2.0), ("transformer", 2.5))
        for seed in (0, 1)
    ]
    rows[0] = (rows[0][0], replace(rows[0][1], curve=rows[0][1].curve[:1]))
    first = report.lines(rows)[0]
    assert (first.num_seeds, first.lowest, first.highest, first.tokens_per_cpu_second) == (2, 2.0, 2.2, 1000)
    assert first.bits == pytest.approx(2.1)
    text = report.tables(rows, "fox")
    assert text.count("-0.500") == 2
    assert "bits by position, 128 tokens" in text
    figure = report.curves_figure(rows, "fox")
    assert len(figure.axes) == 4
    longest = [line for line in figure.axes[0].lines if line.get_label() == "local,lsh"]
    assert list(longest[0].get_xdata()) == [1, 2, 4]
    assert longest[0].get_ydata()[-1] == pytest.approx(2.45)
    near = [(replace(each, name="local"), replace(found, bits=9.0)) for each, found in rows[:2]]
    panels = report.positions_figure(rows + near, "fox").axes
    assert [list(line.get_ydata()) for line in panels[2].lines] == [
        pytest.approx(gains) for gains in ([0, 0], [0.5, 0.5], [0, 0])
    ]
    assert not panels[3].lines, "no such variant at that length"
