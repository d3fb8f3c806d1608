"""The benchmarks of speed and memory: that they measure what they say, and their tables, files and arithmetic."""

import csv
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from reformer_dist.benchmarks.speed import attention, decoding, memory, model, optimizer, peers, scaling
from reformer_dist.benchmarks.speed import report as speed_report
from reformer_dist.benchmarks.speed.measuring import Case, Measurement, Step, Waiting, measure
from tests.ranks import run_ranks


def busy(length: int, mebibytes: int) -> Step:
    kept = torch.zeros(2**22)

    def step() -> None:
        until = time.process_time() + length / 1000
        torch.ones(mebibytes * 2**18).add_(kept[0])
        while time.process_time() < until:
            pass

    return step


def test_a_case_is_measured_in_its_own_process() -> None:
    ballast = torch.ones(200 * 2**18)  # the parent's peak, which is none of the child's
    lines: list[str] = []
    found = measure([Case("busy", 500, partial(busy, mebibytes=100))], turns=2, report=lines.append)
    assert ballast[0] == 1
    assert len(lines) == 2
    assert len(found) == 1
    assert 0.5 <= found[0].cpu_seconds < 1.0
    assert 95 <= found[0].peak_mib < 130
    assert found[0].samples > 2


def test_decoding_draws_tokens_and_tells_what_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measured(cases: list[Case], turns: int, waiting: Waiting) -> list[Measurement]:
        assert waiting == "active"  # a token is many short operators, between which no thread may fall asleep
        for case in cases:
            case.make(case.length)()
        return [Measurement(case.name, case.length, 0.64, 1.28, 0.0, 1) for case in cases]

    monkeypatch.setattr(decoding, "measure", measured)
    monkeypatch.setattr(decoding, "TOKENS", 4)
    monkeypatch.setattr(decoding, "LENGTHS", {"small": (96,)})
    monkeypatch.setattr(peers, "has", lambda package: False)
    decoding.run("small", tmp_path)
    assert "160.00   320.00" in capsys.readouterr().out
    with (tmp_path / "decoding-small.csv").open() as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert rows[decoding.WEIGHTS]["remembered_mib"] == ""
    keys_and_values = 2 * 96 * 2 * peers.EMBED_DIM * 4 * peers.NUM_LAYERS / 2**20  # with room for as many again
    assert float(rows[decoding.EXACT]["remembered_mib"]) == pytest.approx(keys_and_values)
    assert keys_and_values < float(rows[decoding.OURS]["remembered_mib"]) < 2 * keys_and_values


def failing(length: int) -> Step:
    raise SystemExit(3)


def test_a_case_that_ends_is_named() -> None:
    with pytest.raises(RuntimeError, match=r"broken at 512 tokens ended with exit code 3"):
        measure([Case("broken", 512, failing)], turns=1)


def gradients(step: Step) -> list[Tensor]:
    """What a step gives, after making sure that it has gone forward and back, once, through all of it."""
    norms = []
    for _ in range(2):
        trained = [
            x for x in step() if x.grad is not None or x.dim() > 1
        ]  # transformers has an output bias without use
        assert all(x.grad.isfinite().all() and x.grad.any() for x in trained)
        norms.append(sum(float(x.grad.square().sum()) for x in trained))
    assert norms[1] < 2 * norms[0], (
        "gradients of the step before are in it: twice as large, and four times when squared"
    )
    return trained


@pytest.mark.parametrize(
    ("make", "num_matrices"),
    [
        (peers.exact_layer, 4),
        (peers.hugging_face_layer, 3),
        (partial(peers.race_layer, num_tables=4, num_planes=4, keeps=True), 4),
        (partial(peers.race_layer, num_tables=2, num_planes=2, keeps=False), 4),
        (partial(attention.our_layer, mode="window", window=64), 3),
        (partial(attention.our_layer, mode="chunked", window=64), 3),
    ],
)
def test_layers_are_of_one_size_and_go_forward_and_back(make: Callable[[int], Step], num_matrices: int) -> None:
    """LSH has one matrix less, since queries are keys."""
    x_BTE, *weights = gradients(make(256))
    assert x_BTE.shape == (1, 256, peers.EMBED_DIM)
    assert sum(x.numel() for x in weights if x.dim() == 2) == num_matrices * peers.EMBED_DIM**2


@pytest.mark.parametrize(
    ("make", "num_matrices"),
    [
        (peers.exact_model, 6 * (4 + 8)),
        (peers.hugging_face_model, 6 * (3 + 8)),
        (partial(model.our_model, layers=model.ALL_LSH), 6 * (3 + 8)),
        (partial(model.our_model, layers=model.ALTERNATING), 3 * (3 + 8) + 3 * (4 + 8)),
    ],
)
def test_models_are_of_one_size_and_go_forward_and_back(make: Callable[[int], Step], num_matrices: int) -> None:
    """Six layers; a feed-forward layer is eight matrices of the model's width. Embeddings and outputs come on top."""
    in_squares = sum(x.numel() for x in gradients(make(256))) / peers.EMBED_DIM**2
    assert num_matrices + 2 < in_squares < num_matrices + 6


def test_keys_seen() -> None:
    assert attention.place_in_bucket(torch.tensor([1, 0, 1, 1, 0])).tolist() == [0, 0, 1, 2, 1]
    assert attention.keys_of_window(1024, 64, (1,)) == "up to 64, mean 62"
    assert attention.keys_of_chunks(1024, 64, (1,)).startswith("128, earlier ")


def measurement(name: str, length: int, seconds: float) -> Measurement:
    return Measurement(name, length, seconds, seconds, 10.0, 1)


def test_crossover_lies_between_the_lengths_where_the_order_turns() -> None:
    ours = [measurement(scaling.OURS, length, length / 1000) for length in (1000, 2000, 4000)]
    exact = [measurement(scaling.EXACT, length, length**2 / 3e6) for length in (1000, 2000, 4000)]
    assert scaling.crossover([*ours, *exact]) == pytest.approx(3000)
    assert scaling.crossover([*ours, *(measurement(scaling.EXACT, length, 9.0) for length in (1000, 2000))]) is None


def test_scaling_leaves_out_what_would_not_fit_or_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exact attention ends first, then RACE that keeps; ours and RACE that does not keep go on."""

    def measured(cases: list[Case], turns: int) -> list[Measurement]:
        return [measurement(case.name, case.length, case.length / 1000) for case in cases]

    monkeypatch.setattr(scaling, "measure", measured)
    monkeypatch.setattr(scaling, "LENGTHS", {"small": [2**14, 2**18, 2**19]})
    scaling.run("small", tmp_path)
    with (tmp_path / "scaling-small.csv").open(encoding="utf-8") as file:
        longest = {row["name"]: int(row["length"]) for row in csv.DictReader(file)}
    kept = [name for name, (_, _, keeps) in scaling.RACE.items() if keeps]
    made_twice = [name for name in scaling.RACE if name not in kept]
    assert longest == {scaling.EXACT: 2**14, scaling.OURS: 2**19} | dict.fromkeys(kept, 2**18) | dict.fromkeys(
        made_twice, 2**19
    )
    assert "ours is" in capsys.readouterr().out


def test_files_and_tables(tmp_path: Path) -> None:
    found = [measurement("a", 1024, 2.0), measurement("b", 1024, 1.0), measurement("b", 2**20, 4.0)]
    table = speed_report.table(found, "a")
    assert table.splitlines()[2].split()[-2:] == ["2.0", "1.0"]
    path, picture = speed_report.write(tmp_path / "new", "name", found, "title", (1500.0, "here"))
    assert picture.stat().st_size > 0
    rows = list(csv.DictReader(path.open(encoding="utf-8")))
    assert [row["name"] for row in rows] == ["a", "b", "b"]
    shapes = [memory.Shape(256, 6, 1024)]
    assert "10,240" in memory.table(shapes, [measurement("c", 1024, 1.0)])


def cost_of_muon(zero_stage: int) -> tuple[float, float, int]:
    """A worker's second step, of a small model."""
    step = optimizer._start(optimizer._config(dist.get_world_size(), zero_stage, 16, 64))
    step()
    return step()


@pytest.mark.parametrize(("workers", "zero_stage", "in_matrices"), [(2, 0, 1.0), (2, 3, 1.0), (4, 0, 3.0), (4, 3, 1.5)])
def test_muon_sends_what_the_formula_says(workers: int, zero_stage: int, in_matrices: float) -> None:
    """Results of all matrices to each other worker at ZeRO 0; at 3 what is not the owner's, there and back."""
    costs = run_ranks(cost_of_muon, workers, zero_stage)
    sent = sum(sent for _, _, sent in costs)
    assert sent == in_matrices * optimizer._matrix_bytes(optimizer._config(workers, zero_stage, 16, 64))
    assert all(0 < orthogonal < whole for whole, orthogonal, _ in costs)


def test_muons_table_has_shares() -> None:
    line = optimizer.table([optimizer.Cost(2, 1, 512, 4096, 8.0, 2.0, 1.5, 3 * 2**20, 2**20)]).splitlines()[1]
    assert line.split() == ["2", "1", "512", "4,096", "8.00", "2.00", "25.0%", "1.50", "3.0", "3.000"]
