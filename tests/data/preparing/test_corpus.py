"""A prepared corpus says what is wrong with it, and never hands out damaged tokens."""

import json
import pickle
from pathlib import Path
from threading import Thread

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash

from reformer_dist.config import DataConfig
from reformer_dist.data.preparing import preparation as preparing
from reformer_dist.data.preparing.corpus import Corpus
from reformer_dist.data.preparing.manifest import SPLITS, SplitName
from reformer_dist.data.preparing.parts import Part
from reformer_dist.data.preparing.preparation import plan_preparation
from reformer_dist.data.preparing.writing import complete_folder
from reformer_dist.data.tokenizers.choice import make_tokenizer
from reformer_dist.errors import ConfigError
from reformer_dist.storage.stores import open_store
from tests.corpora import prepare_here, random_documents, run_here, write_documents, write_here

DOCUMENTS = random_documents({f"{i:02d}.txt": 50 + 7 * i for i in range(30)})


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return prepare_here(write_documents(tmp_path / "source", DOCUMENTS), tmp_path)


def texts_of(corpus: Corpus, split: SplitName) -> list[bytes]:
    documents = zip(corpus.document_starts(split), corpus.document_lengths(split), strict=True)
    return [corpus.read(start, start + length).tobytes() for start, length in documents]


def test_each_document_is_whole_in_one_split(corpus: Corpus) -> None:
    found = {}
    for split in ("train", "validation"):
        for name, text in zip(corpus.document_names(split), texts_of(corpus, split), strict=True):
            assert name not in found
            found[name] = text
    assert found == DOCUMENTS
    assert corpus.document_names("train") == sorted(corpus.document_names("train"))


def test_names_and_contents_decide_the_hash_and_nothing_else(corpus: Corpus, tmp_path: Path) -> None:
    elsewhere = prepare_here(write_documents(tmp_path / "other" / "place", DOCUMENTS), tmp_path / "other")
    assert elsewhere.manifest == corpus.manifest
    changed = DOCUMENTS | {"03.txt": DOCUMENTS["03.txt"][::-1]}
    assert prepare_here(write_documents(tmp_path / "changed", changed), tmp_path / "changed").hash != corpus.hash


@pytest.mark.parametrize("name", ["tokens-00000.parquet", "documents.parquet", "tokenizer.json"])
def test_a_truncated_altered_or_missing_file_is_named(corpus: Corpus, name: str) -> None:
    path = Path(corpus.folder) / name
    content = path.read_bytes()

    def problem() -> str:
        with pytest.raises(ConfigError, match=name) as caught:
            Corpus.open(corpus.folder)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    path.write_bytes(content[:-10])
    assert f"has {len(content) - 10} bytes where the manifest says {len(content)}" in problem()
    path.write_bytes(content[:50] + bytes([content[50] ^ 1]) + content[51:])
    assert "hash" in problem()
    path.unlink()
    assert "missing" in problem()


def test_damage_after_opening_is_an_error_and_not_other_tokens(corpus: Corpus) -> None:
    path = Path(corpus.folder) / "tokens-00000.parquet"
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)
    with pytest.raises(OSError, match=r"tokens-00000\.parquet cannot be read"):
        corpus.read(0, 10)


def test_no_manifest_another_version_and_no_json_are_told_apart(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no manifest"):
        Corpus.open(str(tmp_path))
    manifest = Path(corpus.folder) / "manifest.json"
    tree = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(tree | {"schema_version": 99}))
    with pytest.raises(ConfigError, match="schema version 99"):
        Corpus.open(corpus.folder)
    manifest.write_text("{")
    with pytest.raises(ConfigError, match=r"manifest\.json is not one"):
        Corpus.open(corpus.folder)


def test_reading_crosses_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparing, "MIN_PART_BYTES", 300)
    corpus = prepare_here(write_documents(tmp_path / "source", DOCUMENTS), tmp_path)
    ends = np.cumsum([file.tokens for file in corpus.manifest.fields["text"].token_files])
    assert len(ends) > 5
    whole = b"".join(DOCUMENTS[name] for name in sorted(DOCUMENTS))
    assert corpus.read(0, len(whole)).tobytes() == whole
    for end in ends[:-1]:
        assert corpus.read(end, end + 3).tobytes() == whole[end : end + 3]
        assert corpus.read(end - 2, end).tobytes() == whole[end - 2 : end]


def test_a_corpus_travels_to_another_process(corpus: Corpus) -> None:
    copy = pickle.loads(pickle.dumps(corpus))
    assert copy.hash == corpus.hash
    assert np.array_equal(copy.read(5, 60), corpus.read(5, 60))


def test_few_documents_are_each_cut_to_hold_out_their_end(tmp_path: Path) -> None:
    # The hash of world_factbook.txt is below 0.1, but half of all text would be too much to hold out.
    texts = {"poems.txt": b"x" * 900 + b"y" * 100, "world_factbook.txt": b"x" * 90 + b"y" * 10}
    corpus = prepare_here(write_documents(tmp_path / "s", texts), tmp_path, 0.1)
    assert texts_of(corpus, "train") == [b"x" * 900, b"x" * 90]
    assert texts_of(corpus, "validation") == [b"y" * 100, b"y" * 10]
    counts = corpus.manifest.split("validation").unigram_counts, corpus.manifest.split("train").unigram_counts
    assert [(count[ord("x")], count[ord("y")]) for count in counts] == [(0, 110), (990, 0)]


def test_a_test_split_is_held_out_too_of_many_documents_or_of_each(tmp_path: Path) -> None:
    corpus = prepare_here(write_documents(tmp_path / "s", DOCUMENTS), tmp_path, 0.2, test_fraction=0.2)
    names = [corpus.document_names(split) for split in SPLITS]
    assert corpus.manifest.held_out == "documents"
    assert sorted(name for some in names for name in some) == sorted(DOCUMENTS)
    assert all(names)
    whole = prepare_here(write_documents(tmp_path / "s", DOCUMENTS), tmp_path / "other", 0.2)
    assert whole.document_names("validation") == names[1], "a test split takes nothing from validation"
    few = prepare_here(write_documents(tmp_path / "few", {"a": b"0123456789"}), tmp_path, 0.2, test_fraction=0.1)
    assert [texts_of(few, split) for split in SPLITS] == [[b"0123456"], [b"78"], [b"9"]]


def test_documents_that_all_hash_to_one_split_are_cut_as_well(tmp_path: Path) -> None:
    names = [name for name in map(str, range(60)) if xxhash.xxh3_64_intdigest(name.encode()) >= 2**64 // 5][:30]
    corpus = prepare_here(write_documents(tmp_path / "s", dict.fromkeys(names, b"0123456789")), tmp_path, 0.2)
    assert corpus.manifest.held_out == "ends"
    assert texts_of(corpus, "validation") == [b"89"] * 30


def test_a_folder_leaves_binary_files_out_and_counts_them(tmp_path: Path) -> None:
    source = write_documents(tmp_path / "s", {"a.txt": b"text " * 100, "b.png": b"\x89PNG\0\0"})
    corpus = prepare_here(source, tmp_path)
    assert corpus.document_names("train") == ["a.txt"]
    assert corpus.manifest.binary == 1
    with pytest.raises(ConfigError, match=r"data\.tokenizer = bytes takes no image file, which .*b\.png is; rgb works"):
        prepare_here(source / "b.png", tmp_path)
    with pytest.raises(OSError, match=r"b\.png: byte 0 \(0x89\) is no UTF-8; data\.encoding says what it is"):
        prepare_here(write_documents(tmp_path, {"b.png": b"\x89PNG"}) / "b.png", tmp_path, format="text")
    with pytest.raises(OSError, match=r"b\.png: byte 4 is NUL, which text does not hold"):
        prepare_here(source / "b.png", tmp_path, format="text", encoding="raw")


def test_too_little_text_for_two_splits_is_one_line(tmp_path: Path) -> None:
    source = write_documents(tmp_path / "s", {"a.txt": b"x"})
    with pytest.raises(ConfigError, match=r"data\.sources: too little for a train split"):
        prepare_here(source, tmp_path)


def test_a_document_that_changes_meanwhile_is_named(tmp_path: Path) -> None:
    source = write_documents(tmp_path / "s", {"a.txt": b"text " * 100})
    preparation = plan_preparation(DataConfig(sources=(str(source),)), str(tmp_path))
    write_documents(source, {"a.txt": b"other text"})
    with pytest.raises(OSError, match=r"data\.sources: .*a\.txt changed while it was being read"):
        run_here(preparation)


def test_an_interrupted_attempt_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparing, "MIN_PART_BYTES", 300)
    source = write_documents(tmp_path / "s", DOCUMENTS)
    expected = prepare_here(source, tmp_path / "whole").manifest
    preparation = plan_preparation(DataConfig(sources=(str(source),), validation_fraction=0.2), str(tmp_path))
    aside = Path(f"{preparation.folder}.partial")
    aside.mkdir(parents=True)
    definition = make_tokenizer("bytes").to_json()

    def write(part: Part) -> dict[str, object]:
        return write_here(part, preparation.data, definition, str(aside))

    pq.write_table(pa.table({"name": ["a"]}), aside / "part-00000.parquet")  # of another release
    first, second, third = preparation.parts[:3]
    assert [write(part)["was_there"] for part in (first, second, third, first)] == [False, False, False, True]
    (aside / "tokens-00001.parquet").write_bytes(b"half")
    (aside / "part-00002.parquet").write_bytes(b"half")
    write_documents(aside, {"tokens-00099.parquet": b"of another plan"})
    assert [write(part)["was_there"] for part in (first, second, third)] == [True, False, False]
    assert run_here(preparation).manifest == expected
    names = {path.name for path in Path(preparation.folder).iterdir()}
    assert names == {"manifest.json", *(file.name for file in expected.files)}


def test_a_trained_vocabulary_is_the_same_each_time(tmp_path: Path) -> None:
    source = write_documents(tmp_path / "s", {f"{i}.txt": b"some words and other words " * (i + 1) for i in range(20)})
    corpora = [prepare_here(source, tmp_path / place, tokenizer="bpe", bpe_vocab_size=300) for place in "ab"]
    assert corpora[0].manifest == corpora[1].manifest
    assert corpora[0].tokenizer.vocab_size > 270


def test_a_second_process_waits_for_the_first_and_takes_its_result(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "corpus"))
    outcomes: list[str] = []
    told: list[str] = []

    def second() -> None:
        with complete_folder(store, told.append) as place:
            outcomes.append("made" if place else "found")

    waiting = Thread(target=second)
    with complete_folder(store) as place:
        assert place is not None
        waiting.start()
        waiting.join(0.2)
        assert not outcomes
        (Path(place.path) / "manifest.json").write_text("{}")
    waiting.join(10)
    assert outcomes == ["found"]
    assert told == ["another process prepares this corpus; waiting for it"]
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]
