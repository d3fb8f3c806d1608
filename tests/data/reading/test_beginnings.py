"""data.fields.NAME.begins_with: a column's text before another's, as a document that is read after its question."""

import json
from pathlib import Path

import pytest

from reformer_dist.config import load_config
from reformer_dist.errors import ConfigError
from tests.corpora import prepare_here, write_documents
from tests.data.preparing.test_fields import rows_of
from tests.data.reading.test_formats import parquet

FIELDS = {"source": {"column": "document", "begins_with": "question"}, "text": {"column": "answer"}}
QUESTIONS, DOCUMENTS = [f"What is {i}?" for i in range(40)], [f"It is {i} ü.\nYes." for i in range(40)]
ANSWERS = [str(i) for i in range(40)]
ROWS = sorted(
    (f"{question}\n{document}", i) for question, document, i in zip(QUESTIONS, DOCUMENTS, ANSWERS, strict=True)
)


def records() -> list[dict[str, object]]:
    rows = zip(QUESTIONS, DOCUMENTS, ANSWERS, strict=True)
    return [{"question": question, "document": document, "answer": i} for question, document, i in rows]


def jsonl(found: list[dict[str, object]]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in found).encode()


def test_a_source_begins_with_another_column(tmp_path: Path) -> None:
    as_lists = [{**record, "document": str(record["document"]).split("\n")} for record in records()]
    rows = "".join(f'"{a}","{b}",{c}\n' for a, b, c in zip(QUESTIONS, DOCUMENTS, ANSWERS, strict=True))
    columns = {"question": QUESTIONS, "document": DOCUMENTS, "answer": ANSWERS}
    files = {
        "plain.jsonl": jsonl(records()),
        "lists.jsonl": jsonl(as_lists),
        "a.csv": f"question,document,answer\n{rows}".encode(),
        "a.parquet": parquet(columns),
    }
    write_documents(tmp_path / "s", files)
    for name in files:
        assert rows_of(prepare_here(tmp_path / "s" / name, tmp_path / name, 0.3, fields=FIELDS)) == ROWS


def test_another_beginning_is_another_corpus(tmp_path: Path) -> None:
    path = write_documents(tmp_path / "s", {"a.jsonl": jsonl(records())}) / "a.jsonl"
    without = {**FIELDS, "source": {"column": "document"}}
    first, second = (prepare_here(path, tmp_path, 0.3, fields=fields) for fields in (FIELDS, without))
    assert first.folder != second.folder
    assert rows_of(second) == sorted(zip(DOCUMENTS, ANSWERS, strict=True))


@pytest.mark.parametrize(
    ("change", "line"),
    [({"question": " "}, "question is empty or only white space"), ({"question": 3}, "question: ")],
)
def test_a_record_without_its_beginning_is_bad(change: dict[str, object], line: str, tmp_path: Path) -> None:
    found = [records()[0] | change, *records()]
    path = write_documents(tmp_path / "s", {"a.jsonl": jsonl(found)}) / "a.jsonl"
    with pytest.raises((ConfigError, OSError), match=line):
        prepare_here(path, tmp_path, 0.3, fields=FIELDS)
    assert rows_of(prepare_here(path, tmp_path, 0.3, fields=FIELDS, on_bad="skip")) == ROWS


def test_a_missing_column_is_told_with_its_setting(tmp_path: Path) -> None:
    path = write_documents(tmp_path / "s", {"a.jsonl": b'{"document": "a", "answer": "b"}\n'}) / "a.jsonl"
    with pytest.raises((ConfigError, OSError), match=r"question \(data\.fields\.source\.begins_with\)"):
        prepare_here(path, tmp_path, 0.3, fields=FIELDS)


@pytest.mark.parametrize(
    ("field", "line"),
    [
        ({"begins_with": "q", "tokenizer": "rgb"}, "goes with texts, not with data.fields.source.tokenizer = rgb"),
        ({"begins_with": "q", "aligned_with": "text"}, "does not go with aligned_with = text"),
    ],
)
def test_beginnings_are_of_texts(field: dict[str, str], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        load_config(None, {"data.fields": {"source": field, "text": {}}})
