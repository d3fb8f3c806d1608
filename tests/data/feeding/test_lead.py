"""A field that leads the text of its document: read before it, with a boundary between, however it is cut."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from reformer_dist import ReformerLM, generate
from reformer_dist.config import Config, ObjectiveConfig, load_config
from reformer_dist.data.feeding.loader import training_batches, validation_batches
from reformer_dist.data.feeding.sequences import check_fields, split_plan
from reformer_dist.data.preparing.corpus import Corpus
from reformer_dist.errors import ConfigError
from reformer_dist.objectives.choice import make_objective
from reformer_dist.planning.preflight import Preflight
from tests.corpora import prepare_here

PREFIX = make_objective(ObjectiveConfig(name="prefix"))
FIELDS = {"prefix": {"tokenizer": "bytes"}, "text": {"tokenizer": "bytes"}}


def prepared(place: Path, records: list[tuple[str, str]], **fields: object) -> Corpus:
    lines = [json.dumps({"prefix": prefix, "text": text}) for prefix, text in records]
    place.mkdir(exist_ok=True)
    (place / "records.jsonl").write_text("\n".join(lines))
    return prepare_here(place / "records.jsonl", place, fields={**FIELDS, **fields})


def settings(length: int, shards: int = 1, **fields: object) -> Config:
    given = {"objective.name": "prefix", "data.sequence_length": length, "model.max_length": 256}
    given |= {"parallel.sequence_shards": shards, "train.workers": shards, "train.micro_batch_size": 1}
    return load_config(None, {**given, **fields})


@pytest.fixture(scope="module")
def records() -> list[tuple[str, str]]:
    draw = np.random.default_rng(0)
    letters = np.array(list("abcdefgh"))
    return [
        (
            "".join(draw.choice(letters, draw.integers(0, 9))).upper(),
            "".join(draw.choice(letters, draw.integers(1, 60))),
        )
        for _ in range(60)
    ]


@pytest.mark.parametrize(("length", "shards"), [(64, 1), (16, 1), (33, 2), (7, 2)])
def test_every_text_is_scored_once_behind_its_prefix(
    records: list[tuple[str, str]], tmp_path: Path, length: int, shards: int
) -> None:
    corpus, config = prepared(tmp_path, records), settings(length, shards)
    check_fields(PREFIX, corpus)
    parts = [list(validation_batches(corpus, config, PREFIX, 0, shard, 1)) for shard in range(shards)]
    tokens, labels, documents = (
        np.concatenate(
            [np.concatenate([getattr(batch, name)[0] for batch in row])[:length] for row in zip(*parts, strict=True)]
        )
        for name in ("tokens_BT", "labels_BT", "documents_BT")
    )
    plan = split_plan(corpus, "validation", config.data, PREFIX.others)
    read: dict[int, dict[int, tuple[int, int]]] = {}
    for sequence in range(plan.num_sequences):
        place = sequence * length
        for document, offset, size in plan.segments(sequence):
            pairs = zip(tokens[place : place + size].tolist(), labels[place : place + size].tolist(), strict=True)
            read.setdefault(document, {}).update(enumerate(pairs, offset))
            place += size
        assert (documents[place : (sequence + 1) * length] == -1).all()
    starts, sizes = (
        {f: get("validation", f) for f in FIELDS} for get in (corpus.document_starts, corpus.document_lengths)
    )
    assert len(read) > 5
    for document, found in read.items():
        pairs = [found[place] for place in range(len(found))]
        lead, text = (corpus.read(starts[f][document], starts[f][document] + sizes[f][document], f) for f in FIELDS)
        assert [token for token, _ in pairs] == [0, *lead, 0, *text]
        assert [label for _, label in pairs] == [-100] * (len(lead) + 1) + [*text, 0]


def test_a_model_learns_to_heed_its_prefix(tmp_path: Path) -> None:
    corpus = prepared(tmp_path, [("low", "aaaaaaaaaaaa"), ("high", "zzzzzzzzzzzz")] * 40)
    fields = {"embed_dim": 32, "num_heads": 2, "layers": "local,lsh", "feed_forward_dim": 32, "local_window": 16}
    given = {f"model.{name}": value for name, value in fields.items()}
    config = settings(64, **given, **{"train.steps": 60, "train.batch_size": 4, "train.micro_batch_size": 4})
    model = ReformerLM(config.model)
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    for step, (batch,) in enumerate(training_batches(corpus, config, PREFIX, 0, 0)):
        (PREFIX.loss(model, batch, step) / batch.num_tokens).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    model.tokenizer = corpus.tokenizer_of()
    for prefix, letter in (("low", "a"), ("high", "z")):
        assert generate(model, "", 6, temperature=0, prefix=prefix) == 6 * letter
        assert generate(model, [letter, ""], 3, temperature=0, prefix=prefix) == [4 * letter, 3 * letter]


def test_what_cannot_lead_is_one_line(tmp_path: Path) -> None:
    other = prepared(tmp_path / "other", [("MKV", "abc")] * 40, prefix={"tokenizer": "amino_acids"})
    with pytest.raises(ConfigError, match=r"data\.fields\.prefix\.tokenizer makes other tokens than text's"):
        check_fields(PREFIX, other)
    (tmp_path / "text.txt").write_text("abc" * 100)
    plain = settings(64, **{"data.sources": str(tmp_path / "text.txt"), "train.storage": str(tmp_path / "runs")})
    with pytest.raises(ConfigError, match=r'data\.fields = text has no prefix.*; \{"text": .*"prefix": .*\} works$'):
        Preflight(plain).before_ray()
