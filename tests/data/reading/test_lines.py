"""data.split_lines: line i of every field is a record, and all of a document's are in its split."""

import json
from pathlib import Path

import pytest

from reformer_dist.config import DataConfig, load_config
from reformer_dist.data.preparing.corpus import Corpus
from reformer_dist.data.preparing.manifest import SPLITS
from reformer_dist.data.preparing.preparation import plan_preparation
from reformer_dist.errors import ConfigError
from tests.corpora import prepare_here, write_documents
from tests.data.preparing.test_fields import rows_of, texts_of
from tests.data.reading.test_formats import parquet

FIELDS = {"source": {"column": "en"}, "text": {"column": "es"}}
DOCUMENTS = [
    ([f"{i}.{k} one" for k in range(i % 4 + 1)], [f"{i}.{k} uno" for k in range(i % 4 + 1)]) for i in range(40)
]
LINES = sorted(pair for en, es in DOCUMENTS for pair in zip(en, es, strict=True))


def jsonl(folder: Path, records: list[dict[str, object]]) -> Path:
    content = "".join(json.dumps(record) + "\n" for record in records).encode()
    return write_documents(folder / "s", {"a.jsonl": content}) / "a.jsonl"


def prepared(source: Path, folder: Path, **given: object) -> Corpus:
    return prepare_here(source, folder, 0.3, **{"fields": FIELDS, "split_lines": True, **given})


def test_lists_texts_and_columns_become_their_lines(tmp_path: Path) -> None:
    english, spanish = (["\n".join(each) for each in side] for side in zip(*DOCUMENTS, strict=True))
    as_lists = [{"en": en, "es": es} for en, es in DOCUMENTS]
    as_texts = [{"en": en.replace("\n", "\r\n") + "\n", "es": es} for en, es in zip(english, spanish, strict=True)]
    rows = "".join(f'"{en}","{es}"\n' for en, es in zip(english, spanish, strict=True))
    write_documents(
        tmp_path, {"a.csv": f"en,es\n{rows}".encode(), "a.parquet": parquet({"en": english, "es": spanish})}
    )
    sources = {
        "lists": jsonl(tmp_path / "lists", as_lists),
        "texts": jsonl(tmp_path / "texts", as_texts),
        "both": jsonl(tmp_path / "both", [{**a, "es": b["es"]} for a, b in zip(as_lists, as_texts, strict=True)]),
        "csv": tmp_path / "a.csv",
        "parquet": tmp_path / "a.parquet",
    }
    for kind, source in sources.items():
        assert rows_of(prepared(source, tmp_path / kind)) == LINES


def test_an_entry_of_a_list_is_one_line_whatever_it_holds(tmp_path: Path) -> None:
    records: list[dict[str, object]] = [{"en": ["a\nb", "c"], "es": ["d", "e\nf\n"]}] * 30
    assert set(rows_of(prepared(jsonl(tmp_path, records), tmp_path))) == {("a\nb", "d"), ("c", "e\nf\n")}


@pytest.mark.parametrize("split_by", [None, "book"])
def test_the_lines_of_a_document_stay_in_one_split(split_by: str | None, tmp_path: Path) -> None:
    records = [{"en": en, "es": es, "book": i // 4} for i, (en, es) in enumerate(DOCUMENTS)]
    corpus = prepared(jsonl(tmp_path, records), tmp_path, split_by=split_by)
    texts = texts_of(corpus, "source")
    assert len(texts) == len(LINES), "no two have one name"
    size = 4 if split_by else 1
    found = [{int(texts[name].split(".")[0]) // size for name in corpus.document_names(split)} for split in SPLITS]
    assert found[0]
    assert found[1]
    assert not found[0] & found[1]
    assert sum(map(len, found)) == 40 // size


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"en": ["a", "b"], "es": ["c"]}, r"a\.jsonl#0: its lines are 2 in source and 1 in text"),
        ({"en": "a\n\nb", "es": "c\nd"}, r"a\.jsonl#0: its lines are 3 in source and 2 in text"),
        ({"en": ["a"], "es": []}, r"a\.jsonl#0: its lines are 1 in source and 0 in text"),
        ({"en": ["a"], "es": [3]}, r"es: its field holds a list instead of text"),
        ({"en": [" "], "es": ["c"]}, r"a\.jsonl#0#1: source is empty or only white space"),
    ],
)
def test_lines_that_cannot_be_paired_are_a_bad_document(
    record: dict[str, object], message: str, tmp_path: Path
) -> None:
    source = jsonl(tmp_path, [record, *({"en": en, "es": es} for en, es in DOCUMENTS)])
    with pytest.raises(OSError, match=message) as caught:
        prepared(source, tmp_path)
    assert "\n" not in str(caught.value)
    corpus = prepared(source, tmp_path, on_bad="skip")
    assert (corpus.manifest.bad, rows_of(corpus)) == (1, LINES)


def test_lines_that_are_blank_in_every_field_are_no_records(tmp_path: Path) -> None:
    records: list[dict[str, object]] = [{"en": "a\n\nb\n", "es": "c\n \nd"}, {"en": "", "es": []}]
    corpus = prepared(jsonl(tmp_path, records * 20), tmp_path)
    assert (corpus.manifest.bad, rows_of(corpus)) == (0, [("a", "c")] * 20 + [("b", "d")] * 20)


def test_it_makes_another_corpus(tmp_path: Path) -> None:
    source = jsonl(tmp_path, [{"en": "a", "es": "b"}])
    given = {"sources": (str(source),), "fields": FIELDS}
    folders = {
        plan_preparation(DataConfig.model_validate({**given, "split_lines": split}), str(tmp_path)).folder
        for split in (True, False)
    }
    assert len(folders) == 2


def test_many_lines_of_few_documents_are_too_few(tmp_path: Path) -> None:
    source = jsonl(tmp_path, [{"en": ["a"] * 50, "es": ["b"] * 50}])
    with pytest.raises(ConfigError, match="50 lines are of too few documents to hold some of them out"):
        prepared(source, tmp_path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"data\.split_lines = true goes with several data\.fields, .*; false works"),
        ({"data.fields": FIELDS, "data.format": "parallel"}, r"data\.split_lines = true does not go with .* parallel"),
    ],
)
def test_where_there_are_no_lines_to_pair_it_is_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(None, {"data.split_lines": True, **given})
