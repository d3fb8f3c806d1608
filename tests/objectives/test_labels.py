"""A label for each token: what is scored, with which vocabulary, beside which baseline, and that it is learned."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reformer_dist.config import Config, ObjectiveConfig, load_config
from reformer_dist.data.feeding.examples import Place, Stretch
from reformer_dist.data.feeding.loader import training_batches, validation_batches
from reformer_dist.data.feeding.sequences import check_fields
from reformer_dist.data.preparing.corpus import Corpus
from reformer_dist.data.tokenizers.residues import AminoAcidTokenizer
from reformer_dist.data.tokenizers.single_bytes import BytesTokenizer
from reformer_dist.data.tokenizers.tokenizer import Tokenizer
from reformer_dist.errors import ConfigError
from reformer_dist.model.reformer import ReformerLM
from reformer_dist.objectives.choice import check_vocabulary, make_objective, vocab_sizes
from reformer_dist.objectives.objective import Objective
from reformer_dist.planning.preflight import Preflight
from tests.corpora import prepare_here

PLACE = Place(0, 0, 0)
FIELDS = {name: {"aligned_with": None if name == "text" else "text"} for name in ("text", "labels", "known")}


def labels(**settings: Any) -> Objective:
    return make_objective(ObjectiveConfig(name="labels", **settings))


def stretch(content: str, tokenizer: Tokenizer, first: int = 0, stop: int | None = None) -> Stretch:
    """Positions `first` to `stop` of a document."""
    entries = np.array([tokenizer.boundary, *tokenizer.encode(content), tokenizer.boundary])
    stop = len(content) + 1 if stop is None else stop
    return Stretch(entries[first : stop + 1], first, len(content) + 1, first, tokenizer)


def prepared(place: Path, records: Sequence[tuple[str, str, str]], **fields: object) -> Corpus:
    lines = [json.dumps(dict(zip(FIELDS, record, strict=True))) for record in records]
    (place / "records.jsonl").write_text("\n".join(lines))
    return prepare_here(place / "records.jsonl", place, fields={**FIELDS, **fields})


def test_each_token_is_read_and_its_own_label_is_told() -> None:
    residues = AminoAcidTokenizer()
    fields = {"text": stretch("MKV", residues), "labels": stretch("HE-", BytesTokenizer())}
    tokens, told = labels().example(fields, PLACE)
    assert tokens.tolist() == [0, *residues.encode("MKV")]
    assert told.tolist() == [-100, *b"HE-"]
    assert labels(labels_unscored="-?").example(fields, PLACE)[1].tolist() == [-100, *b"HE", -100]
    assert (labels().fields, labels().vocabularies, labels().unit("residue")) == (("text", "labels"),) * 2 + ("label",)


def test_what_the_mask_has_no_1_for_is_not_scored() -> None:
    objective = labels(labels_mask="known", labels_unscored="?")
    assert objective.fields == ("text", "labels", "known")
    whole = {"text": "abcd", "labels": "x?yz", "known": "1101"}
    fields = {name: stretch(content, BytesTokenizer()) for name, content in whole.items()}
    assert objective.example(fields, PLACE)[1].tolist() == [-100, ord("x"), -100, -100, ord("z")]
    behind = {name: stretch(content, BytesTokenizer(), 3, 5) for name, content in whole.items()}
    assert objective.example(behind, PLACE)[1].tolist() == [-100, ord("z")], "of the third token on"


def test_the_model_must_know_texts_and_labels(tmp_path: Path) -> None:
    corpus = prepared(tmp_path, [("MKV", "xyx", "111")] * 40, text={"tokenizer": "amino_acids"})
    sizes = vocab_sizes(labels(), corpus)
    assert sizes == {"text": 29, "labels": 256}, "the mask is not among them"
    given: dict[str, Any] = {"objective.name": "labels", "data.sequence_length": 4, "data.prepared": corpus.folder}
    given["train.storage"] = str(tmp_path)
    assert Preflight(load_config(None, given)).config.model.vocab_size == 256
    small = load_config(None, {**given, "model.vocab_size": 29})
    with pytest.raises(
        ConfigError, match=r"^model\.vocab_size = 29 is less than the field labels of the corpus needs; 256"
    ):
        check_vocabulary(small, sizes)
    with pytest.raises(
        ConfigError, match=r"^model\.vocab_size = 29 is less than the field labels of the corpus needs; 256"
    ):
        Preflight(small).with_corpus(corpus)


def test_the_baseline_is_of_scored_labels(tmp_path: Path) -> None:
    # In each document x, x, y and ? are scored without settings; y, z and z are left out by the mask.
    corpus = prepared(tmp_path, [("abcdefg", "xxy?yzz", "1111000")] * 60)
    number = corpus.manifest.split("train").documents

    def expected(*counts: int) -> dict[str, float]:
        total = sum(counts)
        nats = [-n * math.log((n * number + 1) / (total * number + 256)) for n in counts]
        return {"loss": sum(nats) / total, "accuracy": max(counts) / total}

    for settings, counts in (
        ({}, (2, 2, 1, 2)),
        ({"labels_mask": "known"}, (2, 1, 1)),
        ({"labels_unscored": "?x"}, (2, 2)),
        ({"labels_mask": "known", "labels_unscored": "?"}, (2, 1)),
    ):
        found = labels(**settings).baseline(corpus, "validation")
        assert {name: found[name] for name in ("loss", "accuracy")} == pytest.approx(expected(*counts), rel=1e-12)


@pytest.mark.parametrize(
    ("settings", "fields", "line"),
    [
        ({"labels_mask": "known"}, {"known": {}}, r"data\.fields\.known\.aligned_with = None: .*; text works"),
        (
            {"labels_mask": "known"},
            {"known": {"tokenizer": "amino_acids", "aligned_with": "text", "column": "labels"}},
            r"objective\.labels_mask = known: amino_acids, .* has no token for 1; .*known\.tokenizer = bytes works",
        ),
        ({"labels_mask": "gone"}, {}, r"has no field gone; its fields: text, labels, known"),
        (
            {"labels_unscored": "é"},
            {},
            r"objective\.labels_unscored = é is not one token of bytes a character, .*leave it out",
        ),
    ],
)
def test_what_cannot_be_scored_is_one_line(
    tmp_path: Path, settings: dict[str, Any], fields: dict[str, Any], line: str
) -> None:
    corpus = prepared(tmp_path, [("MKV", "KKV", "111")] * 40, **fields)
    objective = labels(**settings)
    with pytest.raises(ConfigError, match=line):
        check(objective, corpus)


def check(objective: Objective, corpus: Corpus) -> None:
    check_fields(objective, corpus)
    objective.check(corpus)


def learning(causal: bool) -> Config:
    model = {"embed_dim": 32, "num_heads": 2, "layers": "local,lsh", "feed_forward_dim": 32, "local_window": 8}
    given = {f"model.{name}": value for name, value in model.items()} | {"model.causal": causal, "model.max_length": 64}
    given |= {"train.steps": 60, "train.batch_size": 4, "train.micro_batch_size": 4}
    objective = {"objective.name": "labels", "objective.labels_mask": "known"}
    return load_config(None, {**given, **objective, "data.sequence_length": 48})


@pytest.mark.parametrize("causal", [True, False])
def test_a_model_learns_the_labels_that_the_mask_leaves(tmp_path: Path, causal: bool) -> None:
    """Capitals are labelled C and others s, but where the mask has no 1 it is the other way round."""
    draw = np.random.default_rng(0)
    records = []
    for _ in range(80):
        text, known = "".join(draw.choice([*"abcABC"], 30)), "".join(draw.choice([*"01"], 30))
        told = "".join("C" if a.isupper() == (k == "1") else "s" for a, k in zip(text, known, strict=True))
        records.append((text, told, known))
    corpus, config = prepared(tmp_path, records), learning(causal)
    objective = make_objective(config.objective)
    model = ReformerLM(config.model)
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    for step, (batch,) in enumerate(training_batches(corpus, config, objective, 0, 0)):
        (objective.loss(model, batch, step) / batch.num_tokens).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    with torch.no_grad():
        batches = validation_batches(corpus, config, objective, 0, 0, 1)
        sums = sum(objective.scores(model, batch).sum(dim=(0, 1)) for batch in batches)
    assert isinstance(sums, torch.Tensor)
    num_scored = sum(content.count("1") for _, _, content in records)
    assert 0 < sums[1] < num_scored
    assert (
        objective.metrics(sums.tolist())["accuracy"] > 0.99 > 0.9 > objective.baseline(corpus, "validation")["accuracy"]
    )
