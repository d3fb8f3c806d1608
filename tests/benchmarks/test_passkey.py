"""The passkey benchmark: its sequences, buckets that follow the length, a run that goes on where it ended, its table."""

import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from reformer_dist.benchmarks.learning.book import Row
from reformer_dist.benchmarks.learning.recall import passkey
from reformer_dist.benchmarks.learning.recall.model import ScoredLM
from reformer_dist.benchmarks.learning.recall.passkey import SIZES, ask, cells, model_config
from reformer_dist.benchmarks.learning.recall.passkey_report import Asked, Found, figure, tables
from reformer_dist.benchmarks.learning.recall.passkey_task import (
    MARKER,
    NUM_SYMBOLS,
    SYMBOLS,
    VOCABULARY,
    found,
    passkeys,
)

TINY = replace(
    SIZES["small"], trained=48, lengths=(48, 96), longest_full=48, depths=3, questions=2, steps=2, tokens=96, width=32
)


@pytest.mark.parametrize("length", [12, 64, 1025])
@pytest.mark.parametrize("depth", [0.0, 0.5, 1.0, None])
def test_the_question_repeats_the_marker_and_what_follows_is_the_label(length: int, depth: float | None) -> None:
    drawn = passkeys(30, length, torch.Generator().manual_seed(0), depth)
    assert drawn.tokens_BT.max() < VOCABULARY
    for tokens, queries, answers in zip(
        drawn.tokens_BT.tolist(), drawn.queries_BQ.tolist(), drawn.answers_BQ.tolist(), strict=True
    ):
        place = tokens.index(MARKER)
        assert Counter(tokens)[MARKER] == 2
        assert tokens[place + 1 : place + 1 + NUM_SYMBOLS] == answers
        assert len(set(answers)) == NUM_SYMBOLS
        assert tokens[queries[0] :] == [MARKER, *answers[:-1]]
        assert queries == [*range(length - NUM_SYMBOLS, length)]
        noise = tokens[:place] + tokens[place + 1 + NUM_SYMBOLS : queries[0]]
        assert all(token > SYMBOLS for token in noise), "nothing of the passkey is elsewhere"
        last = length - 2 * NUM_SYMBOLS - 1
        assert depth is None or place == round(depth * last)
        assert place <= last


def test_depths_are_drawn_evenly() -> None:
    places = (passkeys(4000, 12, torch.Generator().manual_seed(0)).tokens_BT[:, :4] == MARKER).long().argmax(1)
    assert all(abs(count - 1000) < 150 for count in Counter(places.tolist()).values())
    assert len(set(places.tolist())) == 4


@pytest.mark.parametrize(("length", "depth"), [(11, None), (64, 1.1), (64, -0.1)])
def test_what_has_no_room_is_refused(length: int, depth: float | None) -> None:
    with pytest.raises(ValueError, match="works"):
        passkeys(1, length, torch.Generator(), depth)


def test_a_passkey_is_found_if_all_its_symbols_are() -> None:
    answers = torch.tensor([[1, 2, 3, 4], [4, 3, 2, 1]])
    logits = torch.nn.functional.one_hot(answers, 8).float()
    assert found(logits, answers).tolist() == [True, True]
    logits[1, 2] = logits[1, 2].flip(0)
    assert found(logits, answers).tolist() == [True, False]


def test_buckets_follow_the_length_and_weights_stay() -> None:
    short, long = (ScoredLM(model_config(TINY, "local,lsh", length, seed=0)) for length in (64, 4096))
    assert {name: x.shape for name, x in short.state_dict().items()} == {
        name: x.shape for name, x in long.state_dict().items()
    }
    assert [x.config.bucket_factors for x in (short, long)] == [(4,), (16, 16)]
    assert 0 <= ask(short, Asked("local,lsh", 0, 300, 0.5), 2).part <= 1


def test_full_attention_is_asked_less() -> None:
    assert {cell.length for cell in cells(TINY, "full", 0)} == {48}
    assert [(cell.length, cell.depth) for cell in cells(TINY, "local,lsh", 0)] == [
        (length, depth) for length in (48, 96) for depth in (0.0, 0.5, 1.0)
    ]


def test_a_run_goes_on_where_its_file_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(SIZES, "small", TINY)
    monkeypatch.setattr(passkey, "MODELS", {name: passkey.MODELS[name] for name in ("local,lsh", "full")})
    passkey.run("small", tmp_path)
    whole = (tmp_path / "passkey-small.csv").read_text()
    assert len([*csv.DictReader(whole.splitlines())]) == 6 + 3
    assert (tmp_path / "passkey-small.png").stat().st_size > 10_000
    capsys.readouterr()
    (tmp_path / "passkey-small.csv").write_text("".join(whole.splitlines(keepends=True)[:-2]))
    passkey.run("small", tmp_path)
    assert (tmp_path / "passkey-small.csv").read_text() == whole, "the same training, the same questions"
    assert "local,lsh, seed" not in capsys.readouterr().out, "what is complete is not trained again"


def test_table_and_picture_show_means_of_seeds_and_what_was_not_asked() -> None:
    rows = [
        Row(Asked("local,lsh", seed, length, depth), Found(share, share))
        for seed, share in ((0, 1.0), (1, 0.5))
        for length in (64, 128)
        for depth in (0.0, 1.0)
    ]
    rows.append(Row(Asked("full", 0, 64, 0.0), Found(0.25, 0.5)))
    lines = [line.split() for line in tables(rows).splitlines()]
    assert lines[2:4] == [["64", "tokens", "75%", "75%"], ["128", "tokens", "75%", "75%"]]
    assert lines[-1] == ["64", "tokens", "25%", "-"]
    lsh, full, _ = figure(rows, trained=64).axes
    assert lsh.images[0].get_array().tolist() == [[0.75, 0.75], [0.75, 0.75]]
    assert full.images[0].get_array().tolist() == [[0.25, None], [None, None]]
    assert [*lsh.lines[0].get_xdata()] == [0.5, 0.5]
