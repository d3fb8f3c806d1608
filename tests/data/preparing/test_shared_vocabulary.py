"""Fields that share a vocabulary: one tokenizer, trained on all of them, and a corpus of its own."""

import json
from pathlib import Path

import pytest

from reformer_dist.config import DataConfig
from reformer_dist.data.preparing.preparation import plan_preparation
from reformer_dist.data.preparing.vocabulary import planned_vocab_size
from reformer_dist.data.tokenizers.bpe import train_bpe
from reformer_dist.errors import ConfigError
from tests.corpora import prepare_here, run_here, write_documents
from tests.data.preparing.test_fields import open_prepared, rows_of

SOURCE = {"column": "en", "tokenizer": "bpe", "bpe_vocab_size": 300}
SHARED = {"source": SOURCE, "text": {"column": "es", "vocabulary_of": "source"}}
APART = {"source": SOURCE, "text": {**SOURCE, "column": "es"}}
PAIRS = [(f"{i} apple trees", f"{i} manzanos verdes") for i in range(40)]


def pairs(folder: Path) -> Path:
    lines = "".join(json.dumps({"en": en, "es": es}) + "\n" for en, es in PAIRS)
    return write_documents(folder / "s", {"a.jsonl": lines.encode()}) / "a.jsonl"


def test_a_bpe_is_trained_on_both_fields(tmp_path: Path) -> None:
    source = pairs(tmp_path)
    corpus = prepare_here(source, tmp_path, fields=SHARED)
    tokenizer = corpus.tokenizer_of("source")
    assert tokenizer.to_json() == corpus.tokenizer_of("text").to_json()
    assert {"Ġapple", "Ġmanzanos"} <= set(tokenizer.vocabulary), "words of both"
    assert rows_of(corpus) == sorted(PAIRS)
    apart = prepare_here(source, tmp_path, fields=APART)
    assert "Ġmanzanos" not in apart.tokenizer_of("source").vocabulary
    assert apart.folder != corpus.folder
    assert planned_vocab_size(DataConfig.model_validate({"fields": SHARED})) == 300


def test_what_is_shared_names_the_corpus(tmp_path: Path) -> None:
    third = {**SHARED, "title": {"column": "en", "vocabulary_of": "source"}}
    apart = {**SHARED, "title": {**SOURCE}}
    given = [{"sources": (str(pairs(tmp_path)),), "fields": fields} for fields in (SHARED, APART, third, apart)]
    folders = {plan_preparation(DataConfig.model_validate(each), str(tmp_path)).folder for each in given}
    assert len(folders) == len(given)


def test_a_given_tokenizer_makes_the_tokens_of_both(tmp_path: Path) -> None:
    given = train_bpe(["manzanos trees"], 290)
    data = DataConfig.model_validate({"sources": (str(pairs(tmp_path)),), "fields": SHARED, "validation_fraction": 0.2})
    corpus = run_here(plan_preparation(data, str(tmp_path), given))
    assert {corpus.tokenizer_of(field).to_json() for field in corpus.fields} == {given.to_json()}
    alone = plan_preparation(data.model_copy(update={"fields": DataConfig(fields=APART).fields}), str(tmp_path), given)
    assert alone.tokenizers == {"source": None, "text": given}


def test_a_tokenizer_file_is_that_of_both(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(train_bpe(["manzanos trees"], 290).to_json())
    fields = {**SHARED, "source": {**SOURCE, "tokenizer_file": f"{tmp_path}/t.json"}}
    corpus = prepare_here(pairs(tmp_path), tmp_path, fields=fields)
    assert {corpus.tokenizer_of(field).to_json() for field in corpus.fields} == {(tmp_path / "t.json").read_text()}


def test_a_prepared_corpus_must_share_what_is_said_to_be_shared(tmp_path: Path) -> None:
    source = pairs(tmp_path)
    with pytest.raises(ConfigError, match=r"text\.vocabulary_of = source: .* was prepared with two vocabularies"):
        open_prepared(prepare_here(source, tmp_path, fields=APART).folder, {"fields": SHARED})
    assert open_prepared(prepare_here(source, tmp_path, fields=SHARED).folder, {"fields": SHARED}).fields


def test_a_table_without_a_header_is_read_by_numbers(tmp_path: Path) -> None:
    rows = "".join(f"{en}\t{es}\n" for en, es in PAIRS)
    source = write_documents(tmp_path / "s", {"a.tsv": rows.encode()}) / "a.tsv"
    fields = {"source": {**SOURCE, "column": 1}, "text": {"column": 0, "vocabulary_of": "source"}}
    assert rows_of(prepare_here(source, tmp_path, fields=fields)) == sorted((es, en) for en, es in PAIRS)
