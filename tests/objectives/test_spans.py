"""Span corruption: how much is taken out, that nothing is lost, which draws it follows, and that it is learned."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from reformer_dist.config import Config, ObjectiveConfig, load_config
from reformer_dist.data.feeding.examples import HELD_OUT, Place, Rewritten
from reformer_dist.data.feeding.loader import training_batches, validation_batches
from reformer_dist.data.tokenizers.single_bytes import BytesTokenizer
from reformer_dist.errors import ConfigError
from reformer_dist.model.encoder_decoder import EncoderDecoder
from reformer_dist.objectives.choice import check_objective, make_objective
from reformer_dist.objectives.spans import SpanCorruption
from reformer_dist.planning.preflight import Preflight
from tests.corpora import prepare_here
from tests.objectives.spans import put_back, spans_of

PLACE = Place(seed=3, step=5, row=2)
TOKENIZER = BytesTokenizer()
T5 = SpanCorruption(0.15, 3.0, 100)


def rewrite(corruption: SpanCorruption, tokens: np.ndarray, place: Place = PLACE, position: int = 0) -> Rewritten:
    return corruption.rewrite(tokens, TOKENIZER, place, position)


def drawn(length: int) -> np.ndarray:
    return np.random.default_rng(length).integers(1, 256, length, np.uint8)


@pytest.mark.parametrize("corruption", [T5, SpanCorruption(0.5, 1.0, 7), SpanCorruption(0.97, 1.5, 1)], ids=str)
def test_a_source_with_its_spans_put_back_is_the_text(corruption: SpanCorruption) -> None:
    for length in [*range(1, 70), 568, 9000]:
        tokens = drawn(length)
        made = rewrite(corruption, tokens)
        expected = corruption.lengths(np.array([length]))[0].tolist()
        assert [len(made.target) - 1, len(made.source)] == expected
        assert put_back(made.source, made.target) == tokens.tolist()


@pytest.mark.parametrize(("share", "mean_length"), [(0.15, 3.0), (0.5, 3.0), (0.25, 1.0), (0.1, 4.5)])
def test_tokens_and_spans_are_shares_of_the_length_rounded(share: float, mean_length: float) -> None:
    corruption = SpanCorruption(share, mean_length, 100)
    for length in range(1, 300):
        made = rewrite(corruption, drawn(length))
        spans = [span for _, span in spans_of(made.target)]
        hidden = sum(map(len, spans))
        assert hidden == max(1, round(length * share))
        assert len(spans) == max(1, round(hidden / mean_length))
        assert all(spans), "none is empty"
        is_sentinel = made.source >= 256
        assert not (is_sentinel[1:] & is_sentinel[:-1]).any(), "spans that touched would be one"


def test_lengths_never_fall() -> None:
    for corruption in (T5, SpanCorruption(0.5, 1.0, 7), SpanCorruption(0.97, 1.5, 1), SpanCorruption(0.9, 1.0, 100)):
        assert (np.diff(corruption.lengths(np.arange(1, 5000)), axis=0) >= 0).all()


def test_as_long_as_in_t5() -> None:
    """Of 568 tokens 85 are taken out in 28 spans: T5 has 512 and 114 with an end and no boundary."""
    assert T5.lengths(np.array([568]))[0].tolist() == [114, 512]


def test_sentinels_are_used_in_order_and_again() -> None:
    made = rewrite(SpanCorruption(0.15, 3.0, 8), drawn(400))
    sentinels = [sentinel for sentinel, _ in spans_of(made.target)]
    assert sentinels == [256 + i % 8 for i in range(20)]
    assert made.source[made.source >= 256].tolist() == sentinels
    assert make_objective(ObjectiveConfig(name="spans", spans_sentinels=8)).num_extra_tokens == 8


def test_draws_follow_seed_step_row_and_position() -> None:
    tokens = drawn(300)

    def source(place: Place, position: int = 0) -> tuple[int, ...]:
        return tuple(rewrite(T5, tokens, place, position).source.tolist())

    assert source(PLACE) == source(Place(3, 5, 2))
    others = [source(Place(*key)) for key in [(4, 5, 2), (3, 6, 2), (3, 5, 3), (3, HELD_OUT, 2)]]
    assert len({source(PLACE), *others, source(PLACE, 41)}) == 6


def test_any_place_is_taken_out() -> None:
    """Every token in about as many draws as the share says, but for those near the ends, which are in fewer spans."""
    tokens = np.arange(1, 101)
    counts = np.zeros(100)
    lengths = []
    for row in range(2000):
        target = spans_of(rewrite(T5, tokens, Place(0, 0, row)).target)
        lengths += [len(span) for _, span in target]
        for _, span in target:
            counts[np.array(span) - 1] += 1
    shares = counts / 2000
    assert abs(shares.mean() - 0.15) < 1e-9
    assert abs(shares[10:-10] - 0.155).max() < 0.04  # five deviations
    assert min(shares[0], shares[-1]) > 0.04
    assert set(lengths) == set(range(1, 12)), "15 tokens in 5 spans"


def test_the_baseline_is_of_tokens_sentinels_and_ends(tmp_path: Path) -> None:
    # Each document has 20 tokens, of which 3 are taken out in one span: 2.25 a, 0.75 b, a sentinel and an end.
    (tmp_path / "s.jsonl").write_text(400 * (json.dumps({"text": "aaab" * 5}) + "\n"))
    corpus = prepare_here(tmp_path / "s.jsonl", tmp_path)
    number = corpus.manifest.split("train").documents
    counts = np.array([2.25, 0.75, 1, 1])
    expected = -(counts * np.log2((counts * number + 1) / (5 * number + 257))).sum() / 5
    found = make_objective(ObjectiveConfig(name="spans")).baseline(corpus, "validation")
    assert found["bits_per_token"] == pytest.approx(expected, rel=1e-12)
    assert found["accuracy"] == pytest.approx(2.25 / 5)


def config(**fields: object) -> Config:
    given = {"objective.name": "spans", "model.encoder_layers": "local", "data.sequence_length": 128}
    return load_config(None, given | {name.replace("__", "."): value for name, value in fields.items()})


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        (
            {"model__encoder_layers": ()},
            "objective.name = spans has a source for an encoder to read, and model.encoder",
        ),
        (
            {"data__sequence_length": 100, "data__source_length": 512},
            "data.sequence_length = 100 is less than is written of a source of 512 tokens (data.source_length);"
            " 114 works, with data.source_length = 512",
        ),
        (
            {"objective__spans_share": 0.8},
            "data.sequence_length = 128 is less than is written of a source of 128 tokens (data.source_length);"
            " 319 works, with data.source_length = 128",
        ),
        ({"data__source_length": 1}, "data.source_length = 1 is less than the source of one token needs; 2 works"),
        ({"model__vocab_size": 257}, "model.vocab_size = 257 is less than data.tokenizer = bytes needs with objective"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path: Path, fields: dict[str, object], line: str) -> None:
    with pytest.raises(ConfigError) as found:
        Preflight(config(train__storage=str(tmp_path), **fields)).before_ray()
    assert str(found.value).startswith(line)
    assert "\n" not in str(found.value)


def test_what_is_told_to_work_works(tmp_path: Path) -> None:
    for fields in ({"data__sequence_length": 114, "data__source_length": 512}, {"data__sequence_length": 356}):
        preflight = Preflight(config(train__storage=str(tmp_path), objective__spans_share=0.15, **fields))
        preflight.before_ray()
        assert preflight.config.model.vocab_size == 356, "100 sentinels"


def test_an_encoder_without_a_source_is_told_both_objectives() -> None:
    with pytest.raises(ConfigError, match=r"no source to read with objective\.name = next_token; pairs or spans works"):
        check_objective(config(objective__name="next_token"))


def test_a_model_learns_what_was_taken_out(tmp_path: Path) -> None:
    """A text is one letter again and again, which only its own source tells; several texts are in a sequence."""
    lengths = np.random.default_rng(0).integers(5, 30, 120).tolist()
    texts = ["abcdefgh"[i % 8] * length for i, length in enumerate(lengths)]
    (tmp_path / "s.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    corpus = prepare_here(tmp_path / "s.jsonl", tmp_path)
    given: dict[str, object] = {"objective__spans_length": 1, "objective__spans_sentinels": 8}
    given |= {"data__sequence_length": 32, "data__source_length": 64}
    given |= {
        "model__layers": "local",
        "model__encoder_layers": "local",
        "model__local_window": 8,
        "model__vocab_size": 264,
    }
    given |= {"model__embed_dim": 32, "model__num_heads": 2, "model__feed_forward_dim": 64, "model__max_length": 64}
    given |= {"train__steps": 60, "train__batch_size": 8, "train__micro_batch_size": 8}
    learning = config(**given)
    objective, trained = make_objective(learning.objective), EncoderDecoder(learning.model)
    optimizer = torch.optim.AdamW(trained.parameters(), 0.01)
    for step, (batch,) in enumerate(training_batches(corpus, learning, objective, 0, 0)):
        (objective.loss(trained, batch, step) / batch.num_tokens).backward()
        optimizer.step()
        optimizer.zero_grad()
    trained.eval()
    with torch.no_grad():
        batches = validation_batches(corpus, learning, objective, 0, 0, 1)
        sums = sum(objective.scores(trained, batch).sum(dim=(0, 1)) for batch in batches)
    assert isinstance(sums, torch.Tensor)
    found, trivial = objective.metrics(sums.tolist()), objective.baseline(corpus, "validation")
    assert found["accuracy"] > 0.9 > 0.5 > trivial["accuracy"]
    assert found["bits_per_token"] < 0.5 * trivial["bits_per_token"]
