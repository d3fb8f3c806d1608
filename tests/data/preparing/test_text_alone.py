"""A corpus of text alone is what it was before records had fields: folder, manifest, hash and files."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import xxhash

from reformer_dist.config import DataConfig
from reformer_dist.data.preparing import preparation as preparing
from reformer_dist.data.preparing.corpus import Corpus
from reformer_dist.data.preparing.preparation import plan_preparation
from reformer_dist.data.reading.finding.chaff import Left
from reformer_dist.data.reading.finding.sources import Listing, SourceFile
from reformer_dist.data.reading.slices import FileSlice
from tests.corpora import prepare_here, write_documents

DOCUMENTS = {f"{i:02d}.txt": bytes(97 + (i * k) % 26 for k in range(5 + 7 * i)) for i in range(30)}
PINNED = {
    "documents": ("e64d6e94b536cbab7dc15d84c725bd76", "b3b74e40b02fab3a"),
    "ends": ("c3a990956ff3f05ce8104529bae69ddb", "3404628ce398376e"),
}
"""Hash of the corpus and xxh3-64 of its manifest as they were, with pyarrow 25.0.1, which writes its version into files."""
FOLDERS = {"bytes": "51052b3d35f40465", "bpe": "241a7dc93df491c7", "field": "3ef84b27b85d0add"}
"""Names of folders as they were since encodings are checked."""


def corpus_of(case: str, folder: Path) -> Corpus:
    if case == "documents":
        return prepare_here(write_documents(folder / "s", DOCUMENTS), folder)
    texts = {"a.txt": b"x" * 900 + b"y" * 100, "b.txt": b"x" * 90 + b"y" * 10}
    return prepare_here(write_documents(folder / "s", texts), folder, 0.1)


@pytest.mark.parametrize("case", PINNED)
def test_hash_and_manifest_are_what_they_were(case: str, tmp_path: Path) -> None:
    corpus = corpus_of(case, tmp_path)
    text = (Path(corpus.folder) / "manifest.json").read_text()
    tree = json.loads(text)
    assert list(tree) == ["schema_version", "hash", "tokenizer", "vocab_size", "row_tokens", "num_sources", "held_out",
        "binary", "bad", "train", "validation", "test", "documents_file", "tokenizer_file", "token_files"]  # fmt: skip
    assert tree["schema_version"] == 3
    assert text == json.dumps(tree, indent=1) + "\n"
    assert {path.name for path in Path(corpus.folder).iterdir()} == {
        "manifest.json", "documents.parquet", "tokenizer.json", "tokens-00000.parquet"}  # fmt: skip
    definition = (Path(corpus.folder) / "tokenizer.json").read_text()
    expected = xxhash.xxh3_128(f"3 {definition} {tree['documents_file']['xxh3']}".encode())
    expected.update(tree["token_files"][0]["tokens_xxh3"].encode())
    assert corpus.hash == expected.hexdigest()
    whole = corpus.read(0, tree["token_files"][0]["tokens"])
    assert tree["token_files"][0]["tokens_xxh3"] == xxhash.xxh3_128_hexdigest(whole.tobytes())
    if pa.__version__ == "25.0.1":
        assert (corpus.hash, xxhash.xxh3_64_hexdigest(text.encode())) == PINNED[case]


@pytest.mark.parametrize("case", FOLDERS)
def test_folders_are_called_what_they_were(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = [SourceFile(f"{i}.jsonl", f"/s/{i}.jsonl", 100 + i, 7, True, 0) for i in range(4)]
    monkeypatch.setattr(preparing, "list_sources", lambda sources: Listing(listing, Left()))
    monkeypatch.setattr(preparing, "recognise_all", lambda found, data: [FileSlice(file, "jsonl") for file in listing])
    given = {"bytes": {}, "bpe": {"tokenizer": "bpe", "bpe_vocab_size": 300}, "field": {"field": "body"}}
    preparation = plan_preparation(DataConfig.model_validate({"sources": ("/s",), **given[case]}), "/storage")
    assert preparation.folder == f"/storage/corpora/{FOLDERS[case]}"


def test_the_field_called_text_may_be_said_either_way(tmp_path: Path) -> None:
    lines = b"".join(b'{"body": "%d words"}\n' % i for i in range(40))
    source = write_documents(tmp_path / "s", {"a.jsonl": lines}) / "a.jsonl"
    short = prepare_here(source, tmp_path / "short", field="body")
    long = prepare_here(source, tmp_path / "long", fields={"text": {"column": "body"}})
    assert long.manifest == short.manifest
    assert Path(long.folder).name == Path(short.folder).name
    assert np.array_equal(long.document_lengths("train"), short.document_lengths("train"))
