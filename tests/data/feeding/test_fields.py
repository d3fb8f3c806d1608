"""Several fields: order, packing and any shard of each give back the documents, whatever the number of shards."""

import json
from pathlib import Path

import numpy as np
import pytest

from reformer_dist.config import DataConfig
from reformer_dist.data.feeding.fields import PADDING, FieldReader, split_summary
from reformer_dist.data.feeding.order import DocumentOrder, sample_ids
from reformer_dist.data.preparing.corpus import Corpus
from reformer_dist.errors import ConfigError
from tests.corpora import prepare_here, write_documents

PAIRS = [(f"number {i} " * (i % 5 + 1), f"Nummer {i} ist größer. " * (i % 4 + 1)) for i in range(60)]
FIELDS = {"source": {"column": "en", "tokenizer": "bpe", "bpe_vocab_size": 280}, "target": {"column": "de"}}
LENGTHS = {"source": 40, "target": 130}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("fields")
    lines = "".join(json.dumps({"en": en, "de": de}) + "\n" for en, de in PAIRS)
    return prepare_here(write_documents(folder, {"a.jsonl": lines.encode()}) / "a.jsonl", folder, fields=FIELDS)


def whole_rows(reader: FieldReader, field: str, sequences: np.ndarray, num_shards: int) -> list[np.ndarray]:
    """(tokens, documents) of all shards put together."""
    shards = [reader.read(field, sequences, shard) for shard in range(num_shards)]
    return [np.concatenate(parts, axis=1) for parts in zip(*shards, strict=True)]


@pytest.mark.parametrize("num_shards", [1, 2, 4])
def test_both_fields_of_every_document_come_back_from_any_shards(corpus: Corpus, num_shards: int) -> None:
    reader = FieldReader(corpus, "train", LENGTHS, num_shards)
    assert reader.num_sequences < corpus.manifest.split("train", "source").documents
    assert not len(reader.left_out)
    sequences = sample_ids(corpus.hash, 0, reader.num_sequences, range(reader.num_sequences))
    assert sorted(sequences.tolist()) == list(range(reader.num_sequences)), "an epoch is every sequence once"
    rows = {field: whole_rows(reader, field, sequences, num_shards) for field in LENGTHS}
    pairs = []
    for row in range(len(sequences)):
        count = rows["source"][1][row].max() + 1
        assert count == rows["target"][1][row].max() + 1, "both fields hold the same documents"
        for document in range(count):
            texts = []
            for field in ("source", "target"):
                tokens = rows[field][0][row][rows[field][1][row] == document]
                assert tokens[0] == corpus.tokenizer_of(field).boundary
                texts.append(corpus.tokenizer_of(field).decode(tokens))
            pairs.append(tuple(texts))
    assert len(pairs) == len(corpus.document_names("train"))
    assert set(pairs) <= set(PAIRS)
    for field, length in LENGTHS.items():
        alone = whole_rows(FieldReader(corpus, "train", LENGTHS), field, sequences, 1)
        for part, expected in zip(rows[field], alone, strict=True):
            assert np.array_equal(part[:, :length], expected)
            assert (rows[field][1][:, length:] == PADDING).all()


def test_documents_kept_together_are_ordered_by_any_plan(corpus: Corpus) -> None:
    plan = FieldReader(corpus, "train", LENGTHS).plans["source"]
    order = DocumentOrder(corpus.hash, 0, plan.run_lengths(), 4)
    steps = np.concatenate([order.ids(step) for step in range(plan.num_sequences)])
    assert sorted(steps[: plan.num_sequences].tolist()) == list(range(plan.num_sequences))


def test_documents_that_are_too_long_are_counted(corpus: Corpus) -> None:
    reader = FieldReader(corpus, "train", {"source": 40, "target": 60})
    too_long = (corpus.document_lengths("train", "target") + 1 > 60).sum()
    assert 0 < too_long == len(reader.left_out)
    lines = split_summary(corpus, "train", DataConfig(sequence_length=60))
    assert [line.split(":")[0] for line in lines] == ["train source", "train target", "train"]
    assert lines[2] == f"train: {too_long} documents are longer than data.sequence_length = 60 and in no sequence"


def test_aligned_fields_are_cut_and_packed_by_one_plan(tmp_path: Path) -> None:
    proteins = ["MKV" * (i + 1) for i in range(40)]
    labels = ["HEC" * (i + 1) for i in range(40)]
    lines = [json.dumps({"text": p, "labels": q}) + "\n" for p, q in zip(proteins, labels, strict=True)]
    fields = {"text": {"tokenizer": "amino_acids"}, "labels": {"aligned_with": "text"}}
    source = write_documents(tmp_path, {"a.jsonl": "".join(lines).encode()}) / "a.jsonl"
    corpus = prepare_here(source, tmp_path, fields=fields)
    reader = FieldReader(corpus, "train", {"text": 32, "labels": 32}, 2)
    assert reader.plans["text"] is reader.plans["labels"]
    assert corpus.document_lengths("train").max() > 32, "some are cut"
    sequences = np.arange(reader.num_sequences)
    (text, places), (label, label_places) = (whole_rows(reader, field, sequences, 2) for field in ("text", "labels"))
    assert np.array_equal(places, label_places)
    residues, classes = (corpus.tokenizer_of(field) for field in ("text", "labels"))
    found = zip(text[places >= 0].tolist(), label[places >= 0].tolist(), strict=True)
    pairs = {(residues.decode([a]), classes.decode([b])) for a, b in found}
    assert pairs == {("", ""), ("M", "H"), ("K", "E"), ("V", "C")}


def test_a_field_that_is_not_there_is_named(corpus: Corpus) -> None:
    with pytest.raises(ConfigError, match=r"has no field labels; its fields: source, target"):
        corpus.document_lengths("train", "labels")
    assert corpus.tokenizer_of() == corpus.tokenizer_of("target"), "the text may be called target"
    with pytest.raises(ConfigError, match=r"has several fields \(source, target\), where one is expected"):
        _ = corpus.tokenizer
