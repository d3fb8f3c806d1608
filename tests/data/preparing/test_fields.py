"""Records of several fields: each with its tokenizer, all in the same split, read back as they were."""

import json
from pathlib import Path

import numpy as np
import pytest

from reformer_dist.config import DataConfig
from reformer_dist.data.preparing.corpus import Corpus
from reformer_dist.data.preparing.manifest import MANIFEST, SPLITS
from reformer_dist.data.preparing.preparation import plan_preparation
from reformer_dist.errors import ConfigError
from tests.corpora import prepare_here, write_documents
from tests.data.reading.test_formats import PICTURES, fasta, npz, parquet

PAIRS = {f"pair {i} " * (i % 4 + 1): f"Paar {i}, größer\nzweite Zeile " * (i % 3 + 1) for i in range(50)}
TRANSLATION = {"source": {"column": "en", "tokenizer": "bpe", "bpe_vocab_size": 280}, "target": {"column": "de"}}


def texts_of(corpus: Corpus, field: str) -> dict[str, str]:
    """A field of every document, decoded, by the document's name."""
    found = {}
    for split in SPLITS:
        starts, lengths = corpus.document_starts(split, field), corpus.document_lengths(split, field)
        for name, start, length in zip(corpus.document_names(split), starts, lengths, strict=True):
            found[name] = corpus.tokenizer_of(field).decode(corpus.read(start, start + length, field))
    return found


def rows_of(corpus: Corpus) -> list[tuple[str, ...]]:
    """The documents as the texts of their fields, sorted."""
    by_field = [texts_of(corpus, field) for field in corpus.fields]
    assert len({tuple(texts) for texts in by_field}) == 1
    return sorted(zip(*(texts.values() for texts in by_field), strict=True))


def translations(folder: Path) -> Path:
    lines = [
        {"id": i, "en": en, "de": de.split("\n") if i % 7 == 0 else de} for i, (en, de) in enumerate(PAIRS.items())
    ]
    content = "".join(json.dumps(line) + "\n" for line in lines)
    return write_documents(folder / "s", {"a.jsonl": content.encode()}) / "a.jsonl"


def test_lines_of_two_fields_come_back(tmp_path: Path) -> None:
    corpus = prepare_here(translations(tmp_path), tmp_path, fields=TRANSLATION, test_fraction=0.2)
    assert corpus.fields == ("source", "target")
    assert rows_of(corpus) == sorted(PAIRS.items())
    assert [corpus.tokenizer_of(field).name for field in corpus.fields] == ["bpe", "bytes"]
    assert corpus.manifest.fields["source"].vocab_size == corpus.tokenizer_of("source").vocab_size > 257
    for split in SPLITS:
        documents = {corpus.manifest.split(split, field).documents for field in corpus.fields}
        assert documents == {len(corpus.document_names(split))}
        for field in corpus.fields:
            counts = corpus.manifest.split(split, field)
            assert counts.tokens == sum(counts.unigram_counts) == corpus.document_lengths(split, field).sum()
    names = {path.name for path in Path(corpus.folder).iterdir()}
    assert names == {MANIFEST, *(file.name for file in corpus.manifest.files)}
    assert json.loads((Path(corpus.folder) / MANIFEST).read_text())["schema_version"] == 4


def test_lines_taken_together_are_those_taken_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = translations(tmp_path)
    together = prepare_here(source, tmp_path / "together", fields=TRANSLATION, split_by="id")
    monkeypatch.setattr("reformer_dist.data.reading.kinds.jsonl._plain_lines", lambda *_: None)
    monkeypatch.setattr("reformer_dist.data.preparing.documents.BATCH_BYTES", 1)
    assert prepare_here(source, tmp_path / "alone", fields=TRANSLATION, split_by="id").manifest == together.manifest


def test_fields_their_alignment_and_contents_decide_the_hash(tmp_path: Path) -> None:
    lines = b"".join(b'{"a": "%03d", "b": "xyz"}\n' % i for i in range(40))
    source = write_documents(tmp_path / "s", {"a.jsonl": lines}) / "a.jsonl"
    kinds = {
        "two": {"a": {}, "b": {}},
        "turned": {"b": {}, "a": {}},
        "named": {"a": {}, "c": {"column": "b"}},
        "aligned": {"a": {}, "b": {"aligned_with": "a"}},
        "one": {"a": {}},
    }
    corpora = {kind: prepare_here(source, tmp_path, fields=fields) for kind, fields in kinds.items()}
    assert len({corpus.hash for corpus in corpora.values()}) == len({corpus.folder for corpus in corpora.values()}) == 5
    assert corpora["aligned"].aligned_with("b") == "a"
    assert corpora["one"].tokenizer.name == "bytes", "a corpus of one field, whatever its name"
    elsewhere = write_documents(tmp_path / "other" / "s", {"a.jsonl": lines}) / "a.jsonl"
    assert prepare_here(elsewhere, tmp_path / "other", fields=kinds["two"]).manifest == corpora["two"].manifest


@pytest.mark.parametrize(
    ("name", "content", "fields", "expected"),
    [
        ("a.csv", "id,en,de\n" + "".join(f'{i},"one, {i}",eins {i}\n' for i in range(30)),
         {"source": {"column": "en"}, "target": {"column": "de"}}, [(f"one, {i}", f"eins {i}") for i in range(30)]),
        ("a.tsv", "".join(f"one {i}\teins {i}\n" for i in range(30)),
         {"source": {"column": "0"}, "target": {"column": "1"}}, [(f"one {i}", f"eins {i}") for i in range(30)]),
        ("a.parquet", parquet({"en": [f"one {i}" for i in range(30)], "de": [[f"eins {i}", "."] for i in range(30)]}),
         {"source": {"column": "en"}, "target": {"column": "de"}}, [(f"one {i}", f"eins {i}\n.") for i in range(30)]),
        ("a.fasta", fasta(["MKV" * (i + 1) for i in range(30)]),
         {"name": {}, "sequence": {"tokenizer": "amino_acids"}}, [(f"p{i}", "MKV" * (i + 1)) for i in range(30)]),
        ("a.npz", npz(images=PICTURES, labels=np.arange(30) % 3, kinds=np.array(["cat", "dog"] * 15)),
         {"image": {"column": "images", "tokenizer": "rgb"}, "labels": {}, "kinds": {}},
         [("".join(f"{n} " for n in p.ravel()), str(i % 3), ["cat", "dog"][i % 2]) for i, p in enumerate(PICTURES)]),
        ("b.parquet", parquet({"image": PICTURES.tolist(), "caption": [f"picture {i}" for i in range(30)]}),
         {"image": {"tokenizer": "rgb"}, "caption": {}},
         [("".join(f"{n} " for n in p.ravel()), f"picture {i}") for i, p in enumerate(PICTURES)]),
    ],
)  # fmt: skip
def test_columns_of_each_kind_of_file(
    name: str, content: str | bytes, fields: dict[str, object], expected: list[tuple[str, ...]], tmp_path: Path
) -> None:
    content = content.encode() if isinstance(content, str) else content
    source = write_documents(tmp_path / "s", {name: content}) / name
    assert rows_of(prepare_here(source, tmp_path, 0.3, fields=fields)) == sorted(expected)


def test_a_column_for_each_source(tmp_path: Path) -> None:
    write_documents(tmp_path, {"a.jsonl": b'{"x": "1", "y": "2"}\n' * 20, "b.jsonl": b'{"y": "3", "z": "4"}\n' * 20})
    fields = {"source": {"column": "x,y"}, "target": {"column": ["y", "z"]}}
    sources = (f"{tmp_path}/a.jsonl", f"{tmp_path}/b.jsonl")
    assert set(rows_of(prepare_here("", tmp_path, sources=sources, fields=fields))) == {("1", "2"), ("3", "4")}


def test_a_document_without_a_token_in_one_field_stays(tmp_path: Path) -> None:
    lines = [{"a": "x" * (i % 2), "b": " " * (i % 3 != 1)} for i in range(60)]
    source = write_documents(tmp_path / "s", {"a.jsonl": "".join(json.dumps(x) + "\n" for x in lines).encode()})
    corpus = prepare_here(source / "a.jsonl", tmp_path, fields={"a": {}, "b": {}})
    assert rows_of(corpus) == sorted((x["a"], x["b"]) for x in lines if x["a"] or x["b"])


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
def test_a_blank_source_or_text_is_bad_and_all_blank_is_no_record(name: str, tmp_path: Path) -> None:
    rows = [("one", "eins"), ("two", " \u00a0 "), ("", "drei"), ("", ""), (" ", "")] * 12
    sources, texts = ([row[side] for row in rows] for side in (0, 1))
    content = {
        "a.jsonl": "".join(json.dumps({"source": a, "text": b}) + "\n" for a, b in rows).encode(),
        "a.csv": ("source,text\n" + "".join(f"{a},{b}\n" for a, b in rows)).encode(),
        "a.parquet": parquet({"source": sources, "text": texts}),
    }[name]
    source = write_documents(tmp_path / "s", {name: content}) / name
    with pytest.raises(OSError, match=rf"{name}#\d+: text is empty or only white space; --data.on_bad skip leaves it"):
        prepare_here(source, tmp_path, fields={"source": {}, "text": {}})
    corpus = prepare_here(source, tmp_path, 0.4, fields={"source": {}, "text": {}}, on_bad="skip")
    assert rows_of(corpus) == [("one", "eins")] * 12
    assert corpus.manifest.bad == 24


def test_fields_beside_a_text_may_be_blank(tmp_path: Path) -> None:
    lines = b'{"text": "MKV", "labels": "   ", "prefix": ""}\n' * 30
    source = write_documents(tmp_path / "s", {"a.jsonl": lines}) / "a.jsonl"
    corpus = prepare_here(source, tmp_path, fields={"text": {}, "labels": {"aligned_with": "text"}, "prefix": {}})
    assert rows_of(corpus) == [("MKV", "   ", "")] * 30


BAD = {
    "a column that is missing": ({"a": "x"}, {}, r"no field b \(data\.fields\.b\.column\); its fields: a"),
    "a field that is no text": ({"a": "x", "b": 3}, {}, r"b: its field holds a int instead of text"),
    "what the vocabulary lacks": ({"a": "x", "b": "1"}, {"b": {"tokenizer": "amino_acids"}}, r"b: '1' is no code"),
    "lengths that differ": ({"a": "xy", "b": "xyz"}, {"b": {"aligned_with": "a"}},
                            r"b has 3 tokens, a, which it is aligned with, 2"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_record_is_named_or_left_out_whole(case: str, tmp_path: Path) -> None:
    line, fields, message = BAD[case]
    lines = b'{"a": "MKV", "b": "KVM"}\n' * 30 + json.dumps(line).encode() + b"\n"
    source = write_documents(tmp_path / "s", {"a.jsonl": lines}) / "a.jsonl"
    given = {"a": {}, "b": {}, **fields}
    with pytest.raises(OSError, match=rf"a\.jsonl#750: .*{message}") as caught:
        prepare_here(source, tmp_path, 0.3, fields=given)
    assert "\n" not in str(caught.value)
    corpus = prepare_here(source, tmp_path, 0.3, fields=given, on_bad="skip")
    assert corpus.manifest.bad == 1
    assert rows_of(corpus) == [("MKV", "KVM")] * 30


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("a.txt", {"a": {}, "b": {}}, r"data\.fields has 2 fields, and .*a\.txt \(text\) can only be one"),
        ("a.fasta", {"a": {}, "sequence": {}}, r"data\.fields\.a\.column = a: .*; sequence or name works"),
        ("a.jsonl", {"a": {"tokenizer": "rgb"}, "b": {}}, r"data\.fields\.a\.tokenizer = rgb, .* takes no jsonl file"),
        ("a.png", {"a": {"tokenizer": "rgb"}, "b": {}}, r"takes no image file, which .*a\.png is; rgb works"),
    ],
)
def test_a_file_that_cannot_have_the_fields_is_named(
    name: str, fields: dict[str, object], message: str, tmp_path: Path
) -> None:
    source = write_documents(tmp_path / "s", {name: b"x"}) / name
    with pytest.raises(ConfigError, match=message) as caught:
        prepare_here(source, tmp_path, fields=fields)
    assert "\n" not in str(caught.value)


def test_a_folder_leaves_files_of_one_field_out(tmp_path: Path) -> None:
    source = translations(tmp_path)
    write_documents(source.parent, {"README.txt": b"about these pairs"})
    corpus = prepare_here(source.parent, tmp_path, fields=TRANSLATION)
    assert corpus.manifest.binary == 1
    assert rows_of(corpus) == sorted(PAIRS.items())


def test_several_fields_are_not_cut_to_hold_out_their_ends(tmp_path: Path) -> None:
    source = write_documents(tmp_path / "s", {"a.jsonl": b'{"a": "x", "b": "y"}\n' * 3}) / "a.jsonl"
    with pytest.raises(ConfigError, match=r"3 documents are too few .* cannot be cut; name more of them"):
        prepare_here(source, tmp_path, fields={"a": {}, "b": {}})


def test_a_prepared_corpus_must_have_the_fields_that_are_asked_for(tmp_path: Path) -> None:
    folder = prepare_here(translations(tmp_path), tmp_path, fields=TRANSLATION).folder
    with pytest.raises(ConfigError, match=r"was prepared without a field text; its fields: source, target"):
        open_prepared(folder, {})
    with pytest.raises(ConfigError, match=r"data\.fields\.target\.tokenizer = bpe: .* was prepared with 'bytes'"):
        open_prepared(folder, {"fields": {"target": {"tokenizer": "bpe"}}})
    assert open_prepared(folder, {"fields": TRANSLATION}).fields == ("source", "target")


def open_prepared(folder: str, given: dict[str, object]) -> Corpus:
    return plan_preparation(DataConfig.model_validate({"prepared": folder, **given}), "").run()


def test_a_truncated_file_of_a_field_is_named(tmp_path: Path) -> None:
    corpus = prepare_here(translations(tmp_path), tmp_path, fields=TRANSLATION)
    path = Path(corpus.folder) / "source.tokens-00000.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ConfigError, match=r"source\.tokens-00000\.parquet has \d+ bytes where"):
        Corpus.open(corpus.folder)
