"""The hashing suite: which keys a way shows, that fitted hashes find more, and its tables."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from reformer_dist.benchmarks.learning.hashing import fitting, suite
from reformer_dist.benchmarks.learning.hashing.fitting import RIDGE, learned_rotations, mean_and_whitening
from reformer_dist.benchmarks.learning.hashing.looking import (
    captured,
    exact_weights,
    shown_best,
    shown_by_rounds,
    shown_recent,
)
from reformer_dist.benchmarks.learning.hashing.suite import EVALUATED, EXACT, Size
from reformer_dist.benchmarks.learning.quality.corpora import Corpus, spread_blocks
from reformer_dist.config import ModelConfig
from reformer_dist.model.attention.lsh.hash_health import metrics, observed
from reformer_dist.model.attention.lsh.hashing import draw_rotations
from reformer_dist.model.reformer import ReformerLM

QUERIES = torch.tensor([1, 7, 30, 59])


def vectors(length: int = 60, width: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(length, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("rounds", "probes", "window"), [(1, 1, 3), (2, 1, 4), (2, 2, 2), (3, 3, 1)])
def test_shown_keys_are_the_nearest_of_the_queries_buckets(rounds: int, probes: int, window: int) -> None:
    x, rotations = vectors(), draw_rotations(3, 8, rounds, (6,))
    shown = shown_by_rounds(x, rotations, QUERIES, window, probes)
    for row, query in zip(shown, QUERIES.tolist(), strict=True):
        expected = set()
        for r in range(rounds):
            rotated = x @ rotations[:, r]
            scores = torch.cat([rotated, -rotated], dim=1)
            for bucket in scores[query].argsort(descending=True)[:probes].tolist():
                same = [key for key in range(query) if int(scores[key].argmax()) == bucket]
                expected |= set(same[-window:])
        assert set(row.nonzero()[:, 0].tolist()) == expected


def test_recent_and_best_keys() -> None:
    weights = exact_weights(vectors(), QUERIES)
    torch.testing.assert_close(weights.sum(1), torch.ones(4))
    recent, best = shown_recent(60, QUERIES, 5), shown_best(weights, 5)
    assert recent.sum(1).tolist() == best.sum(1).tolist() == [1, 5, 5, 5]
    assert recent[2].nonzero()[:, 0].tolist() == [25, 26, 27, 28, 29]
    assert ((weights * best).sum(1) >= (weights * recent).sum(1)).all()


def test_whitened_vectors_are_as_long_in_all_directions_but_for_the_ridge() -> None:
    x = vectors(4000).double() @ vectors(8, 8, 1).double() + 3
    mean, whitening = mean_and_whitening(x)
    before, after = (torch.linalg.eigvalsh(torch.cov(y.T, correction=0)) for y in (x, (x - mean) @ whitening))
    torch.testing.assert_close(after, before / (before + RIDGE * before.mean()))
    assert after.min() > 0.3 > before.min() / before.max()


def test_learned_rotations_catch_more_than_drawn_ones() -> None:
    """Tokens of few kinds, whose differences lie in few of the dimensions: random cuts waste most of theirs."""
    kinds = 6 * vectors(24, 16, 5)
    kinds[:, 4:] = kinds[0, 4:]
    draws = torch.Generator().manual_seed(0)
    sequences = [kinds[torch.randint(24, (256,), generator=draws)] for _ in range(3)]
    learned, queries = learned_rotations(sequences[:2], 8, 1), torch.arange(64, 256)
    held_out, weights = sequences[2], exact_weights(sequences[2], torch.arange(64, 256))

    def caught(rotations: Tensor) -> float:
        return float((weights * shown_by_rounds(held_out, rotations, queries, 8)).sum(1).mean())

    drawn = [caught(draw_rotations(seed, 16, 1, (8,))) for seed in range(8)]
    assert caught(learned) > max(drawn)


def test_what_is_captured_is_what_hash_health_sees() -> None:
    """Mass caught by the model's own rotations and all its queries, here and by the training's metrics."""
    config = ModelConfig(embed_dim=16, num_heads=2, feed_forward_dim=16, layers=("lsh",), max_length=64, num_hashes=2)
    config = config.model_copy(update={"lsh_window": 4, "num_buckets": 8})
    model, tokens = ReformerLM(config).eval(), torch.arange(64)[None]
    (qk,) = captured(model, [tokens])[0]
    with observed(model) as health, torch.no_grad():
        model(tokens)
    kind = model.stack.blocks[0].attention.head_groups[0].kind
    rotations, queries = kind.rotations(0, torch.float32), torch.arange(1, 64)
    caught = [
        (exact_weights(head, queries) * shown_by_rounds(head, rotations, queries, 4)).sum(1).mean()
        for head in qk.unbind(1)
    ]
    assert metrics(health.sums())["hashing/caught"] == pytest.approx(float(sum(caught) / 2), abs=1e-5)


def test_the_suite_tells_and_writes_every_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = np.frombuffer(b"the quick brown fox jumps over the lazy dog. " * 300, np.uint8)
    monkeypatch.setattr(suite, "standard_library", lambda blocks: Corpus("fox", text, spread_blocks(text, 4, 256)))
    monkeypatch.setitem(suite.SIZES, "small", Size(length=256, seconds=0.1, sequences=1, queries=8, held_out_blocks=4))
    monkeypatch.setattr(fitting, "STEPS", 5)
    threads = torch.get_num_threads()
    suite.run("small", tmp_path)
    torch.set_num_threads(threads)
    printed = capsys.readouterr().out
    with (tmp_path / "hashing-small-fox-caught.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["layer"] for row in rows} == {"1", "3"}
    caught = {(row["layer"], row["name"]): float(row["caught"]) for row in rows}
    keys = {(row["layer"], row["name"]): float(row["keys"]) for row in rows}
    for layer, name in caught:
        assert name in printed
        assert caught[layer, name] <= caught[layer, "the best there are"] + 1e-6
        assert keys[layer, name] <= 128
    with (tmp_path / "hashing-small-fox-bits.csv").open(newline="", encoding="utf-8") as file:
        assert [row["setting"] for row in csv.DictReader(file)] == [*EVALUATED, EXACT]
