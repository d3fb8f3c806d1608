"""Each kind of bad input is one readable line that names it; what may be left out is left out when asked, and counted."""

import gzip
from pathlib import Path

import pytest

from reformer_dist.config import DataConfig, load_config
from reformer_dist.data.preparing import documents as reading
from reformer_dist.data.preparing import preparation as prepare
from reformer_dist.data.preparing.corpus import Corpus
from reformer_dist.data.preparing.manifest import DOCUMENTS, MANIFEST
from reformer_dist.data.preparing.preparation import plan_preparation
from reformer_dist.data.reading import choice, files
from reformer_dist.data.reading.kinds import text
from reformer_dist.data.tokenizers.choice import make_tokenizer
from reformer_dist.errors import ConfigError
from reformer_dist.planning.preflight import Preflight
from tests.corpora import grid_config, prepare_here, run_here, write_documents, write_here
from tests.data.reading.test_formats import PICTURES, documents, fasta, jsonl, npz, parquet, png

GOOD = [f"document {i} " * 5 for i in range(30)]
LINES = jsonl(GOOD)
BAD_DOCUMENTS = {
    "a line that is no JSON": ("a.jsonl", LINES + b'{"text": \n', {}, r"a\.jsonl#\d+: line 31: the line is no JSON"),
    "a field that is missing": ("a.jsonl", LINES + b'{"x": 1}\n', {}, r"no field text .*; its fields: x"),
    "a field that is no text": ("a.jsonl", LINES + b'{"text": 3}\n', {}, r"holds a int instead of text"),
    "a residue there is not": ("a.fa", fasta(["MKV"] * 30) + b">bad x\nMK1V\n", {"tokenizer": "amino_acids"},
                               r"a\.fa#bad: '1' is no code of an amino acid"),
    "text that is no UTF-8": ("a.tsv", b"text\n" + b"fine\n" * 30 + b"\xff\xfe\n",
                              {"tokenizer": "bpe", "bpe_vocab_size": 260}, r"a\.tsv#30: of its value byte 0 .* is no UTF-8"),
    "levels that are none": ("a.parquet", parquet({"text": [[[1]]] * 30 + [[[300]]]}), {"tokenizer": "grey"},
                             r"a\.parquet#30: int64 levels from 300 to 300"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_DOCUMENTS)
def test_a_bad_document_is_named_or_left_out_and_counted(case: str, tmp_path: Path) -> None:
    name, content, fields, message = BAD_DOCUMENTS[case]
    source = write_documents(tmp_path / "s", {name: content}) / name
    with pytest.raises(OSError, match=message) as caught:
        prepare_here(source, tmp_path, 0.3, **fields)
    assert str(caught.value).startswith(f"data.sources: {source}")
    assert "\n" not in str(caught.value)
    assert "--data.on_bad skip leaves it out" in str(caught.value)
    corpus = prepare_here(source, tmp_path, 0.3, on_bad="skip", **fields)
    assert corpus.manifest.bad == 1
    assert len(documents(corpus)) == 30


@pytest.mark.parametrize(
    ("name", "content", "fields", "message"),
    [
        ("a.fasta", b"MKV\n", {}, "its first entry begins with 'MKV'; FASTA has '>'"),
        ("a.csv", b"a,b\n1,2\n", {}, "it has no column text .*; its columns: a, b"),
        ("a.csv", b"a,b\n1,2\n", {}, r"column text \(data\.field\); its columns: a, b; without a header they are 0 to 1"),
        ("a.tsv", b"1\t2\n", {"field": "2"}, r"it has no column 2 \(data\.field\); its columns: 0, 1;"),
        ("a.tsv", b"1\t2\n", {"field": "0", "split_by": "7"}, r"it has no column 7 \(data\.split_by\); its columns: 0, 1;"),
        ("a.parquet", parquet({"a": GOOD, "b": GOOD}), {}, "no column text .*; its columns: a, b"),
        ("a.parquet", parquet({"text": GOOD})[:-100], {}, "it breaks off or is no parquet"),
        ("a.npz", npz(x=PICTURES, y=PICTURES), {"tokenizer": "rgb"}, "several arrays: x, y; name one of them in data.field"),
        ("a.npz", npz(x=PICTURES)[:-30], {"tokenizer": "rgb"}, "no array that can be read"),
        ("a.png", png(PICTURES[0])[:40], {"tokenizer": "rgb"}, "no image that can be read"),
        ("a.npz", npz(x=PICTURES), {"tokenizer": "grey"}, r"no grey image; data\.tokenizer = rgb works"),
    ],
)  # fmt: skip
def test_a_bad_file_is_named(
    name: str, content: bytes, fields: dict[str, object], message: str, tmp_path: Path
) -> None:
    source = write_documents(tmp_path / "s", {name: content}) / name
    with pytest.raises(OSError, match=message) as caught:
        prepare_here(source, tmp_path, **fields)
    assert str(caught.value).startswith(f"data.sources: {source}")
    assert "\n" not in str(caught.value)


def test_nothing_but_bad_documents_says_so(tmp_path: Path) -> None:
    write_documents(tmp_path, {"a.jsonl": b"{}\n" * 5})
    with pytest.raises(ConfigError, match=r"too little for a train split.*5 bad documents were left out, first .*#0: "):
        prepare_here(tmp_path / "a.jsonl", tmp_path, on_bad="skip")


def test_a_broken_text_is_left_out_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = {f"{i}.txt.gz": gzip.compress(b"fine " * 99) for i in range(9)}
    source = write_documents(tmp_path / "s", good | {"bad.txt.gz": gzip.compress(LINES * 20)[:-9]})
    corpus = prepare_here(source, tmp_path, 0.3, on_bad="skip")
    assert (len(documents(corpus)), corpus.manifest.bad) == (9, 1)
    monkeypatch.setattr(reading, "HELD_TOKENS", 10)
    monkeypatch.setattr(files, "BUFFER_BYTES", 64)
    monkeypatch.setattr(text, "PIECE_BYTES", 100)
    again = prepare_here(source, tmp_path / "again", 0.3, on_bad="skip")
    assert again.manifest == corpus.manifest, "also when some of it was written before it was known to be bad"


def test_a_bad_text_in_slices_of_several_parts_is_left_out_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "SLICE_BYTES", 50)
    monkeypatch.setattr(prepare, "MIN_PART_BYTES", 60)
    monkeypatch.setattr(prepare, "FILE_BYTES", 1)
    monkeypatch.setattr(text, "PIECE_BYTES", 20)
    good = {"a.txt": b"MKV\n" * 50, "z.txt": b"AC\n" * 50}
    bad = {"b.txt": b"MKV\n" * 40 + b"1\n" + b"MKV\n" * 40 + b"2\n", "c.txt": b"1\n" + b"MKV\n" * 60}
    source = write_documents(tmp_path / "s", good | bad)
    with pytest.raises(OSError, match=r"b\.txt: '1' is no code .* --data\.on_bad skip leaves it out"):
        prepare_here(source, tmp_path, tokenizer="amino_acids")
    corpus = prepare_here(source, tmp_path, tokenizer="amino_acids", on_bad="skip")
    assert len(corpus.manifest.fields["text"].token_files) > 6
    assert corpus.manifest.bad == 2
    assert corpus.tokenizer.decode(corpus.read(0, 250)) == "MKV" * 50 + "AC" * 50
    assert [corpus.document_lengths(split).tolist() for split in ("train", "validation")] == [[120, 80], [30, 20]]


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    source = write_documents(tmp_path / "s", {"a.txt": b"text " * 9999})
    preparation = plan_preparation(DataConfig(sources=(str(source),)), str(tmp_path))
    (tmp_path / "tokens-00000.parquet").symlink_to("/dev/full")
    row = write_here(preparation.parts[0], preparation.data, make_tokenizer("bytes").to_json(), str(tmp_path))
    assert row["error"].startswith(f"train.storage: {tmp_path}/tokens-00000.parquet cannot be written: ")
    assert "No space left on device" in row["error"]


def test_a_disk_that_is_full_at_the_end_is_named(tmp_path: Path) -> None:
    source = write_documents(tmp_path / "s", {"a.txt": b"text " * 9999})
    preparation = plan_preparation(DataConfig(sources=(str(source),)), str(tmp_path))
    for name in (DOCUMENTS, MANIFEST):
        folder = Path(f"{preparation.folder}.partial")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to("/dev/full")
        with pytest.raises(OSError, match=rf"train\.storage: .*{name} cannot be written: .*No space left") as caught:
            run_here(preparation)
        assert "\n" not in str(caught.value)
        (folder / name).unlink()


def small_corpus(tmp_path: Path, **fields: object) -> Corpus:
    source = write_documents(tmp_path / "s", {f"{i}.txt": b"text " * 50 for i in range(20)})
    return prepare_here(source, tmp_path, **fields)


def test_a_corpus_smaller_than_a_batch_is_refused(tmp_path: Path) -> None:
    corpus = small_corpus(tmp_path)
    config = grid_config(1, 1, data__sequence_length=1000, train__batch_size=64)
    with pytest.raises(ConfigError, match=r"train\.batch_size = 64 is more than the \d sequences .*; \d works"):
        Preflight(config).with_corpus(corpus)
    Preflight(grid_config(1, 1, data__sequence_length=1000, train__batch_size=2)).with_corpus(corpus)


def test_a_vocabulary_that_the_model_lacks_is_refused(tmp_path: Path) -> None:
    given = {"data.tokenizer": "bpe", "model.vocab_size": 256, "train.storage": str(tmp_path)}
    config = load_config(None, given)
    with pytest.raises(
        ConfigError, match=r"model\.vocab_size = 256 is less than data\.tokenizer = bpe needs; 8192 works"
    ):
        Preflight(config).before_ray()
    corpus = small_corpus(tmp_path, tokenizer="bpe", bpe_vocab_size=270)
    with pytest.raises(ConfigError, match=r"needs; 2\d\d works"):
        Preflight(config).with_corpus(corpus)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"test_fraction": 0.96}, "leave nothing to train on"),
        ({"tokenizer_file": "x"}, "goes with data.tokenizer = bpe"),
        ({"field": "a,b"}, "2 entries for 1 data.sources"),
        ({"weights": "1,2"}, "data.weights = 1.0,2.0 has 2 entries for 1 data.sources; 1 works"),
    ],
)
def test_settings_that_do_not_fit_together(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(None, {"data": fields})


def test_a_tokenizer_file_that_is_none_is_named(tmp_path: Path) -> None:
    write_documents(tmp_path, {"a.txt": b"text", "t.json": b"{}", "b.json": make_tokenizer("bytes").to_json().encode()})
    for name, message in (("nowhere", "cannot be read"), ("t.json", "no file of the"), ("b.json", "is of .* bytes")):
        data = DataConfig(sources=(f"{tmp_path}/a.txt",), tokenizer="bpe", tokenizer_file=f"{tmp_path}/{name}")
        with pytest.raises(ConfigError, match=rf"data\.tokenizer_file = .*{name}.*{message}"):
            plan_preparation(data, str(tmp_path))


def test_groups_need_fields(tmp_path: Path) -> None:
    write_documents(tmp_path, {"a.txt": b"text"})
    with pytest.raises(ConfigError, match=r"data\.split_by = x: .*a\.txt has no fields \(text\)"):
        prepare_here(tmp_path / "a.txt", tmp_path, split_by="x")
