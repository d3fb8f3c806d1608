"""A file is what its content says: compression, kind and encoding by its first bytes, whatever it is called."""

import bz2
import gzip
import io
import json
import lzma
import pickle
import sqlite3
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from reformer_dist.config import DataConfig, load_config
from reformer_dist.data.preparing.corpus import Corpus
from reformer_dist.data.preparing.manifest import SPLITS
from reformer_dist.data.reading.choice import recognise
from reformer_dist.data.reading.finding.sources import list_sources
from reformer_dist.errors import ConfigError
from tests.corpora import prepare_here, write_documents

TEXTS = [f"story {i} of größe and 漢字" for i in range(30)]
LINES = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in TEXTS).encode()


def documents(corpus: Corpus) -> set[str]:
    found = set()
    for split in SPLITS:
        spans = zip(corpus.document_starts(split), corpus.document_lengths(split), strict=True)
        found |= {corpus.tokenizer.decode(corpus.read(start, start + length)) for start, length in spans}
    return found


def prepared(tmp_path: Path, name: str, content: bytes, **fields: object) -> set[str]:
    return documents(prepare_here(write_documents(tmp_path / "s", {name: content}) / name, tmp_path, 0.3, **fields))


def table(kind: str) -> bytes:
    rows, file = pa.table({"text": TEXTS}), io.BytesIO()
    if kind == "parquet":
        pq.write_table(rows, file)
    else:
        open_writer = pa.ipc.new_file if kind == "file" else pa.ipc.new_stream
        with open_writer(file, rows.schema) as writer:
            writer.write_table(rows, max_chunksize=7)
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        gzip.compress(LINES[:50]) + gzip.compress(LINES[50:]),
        gzip.compress(LINES) + b"\0" * 700,
        bz2.compress(LINES[:50]) + bz2.compress(LINES[50:]),
        lzma.compress(LINES),
        zstandard.compress(LINES[:50]) + zstandard.compress(LINES[50:]),
        zstandard.ZstdCompressor(compression_params=zstandard.ZstdCompressionParameters(window_log=27)).compress(LINES),
        LINES,
        b"\xef\xbb\xbf" + LINES.replace(b"\n", b"\r\n"),
        LINES.decode().encode("utf-16"),
        gzip.compress(LINES.decode().encode("utf-16")),
    ],
    ids=["gz", "gz with zeros", "bz2", "xz", "zst", "zst of a large window", "plain", "bom", "utf-16", "gz of utf-16"],
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.xz"])
def test_compression_and_encoding_are_what_the_bytes_say(tmp_path: Path, name: str, content: bytes) -> None:
    assert prepared(tmp_path, name, content) == set(TEXTS)


@pytest.mark.parametrize("kind", ["parquet", "file", "stream"])
@pytest.mark.parametrize("name", ["a.txt", "data-00000-of-00001.arrow", "b.parquet"])
def test_tables_are_tables_by_any_name(tmp_path: Path, kind: str, name: str) -> None:
    assert prepared(tmp_path, name, table(kind)) == set(TEXTS)


def archive(kind: str) -> bytes:
    file = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(file, "w") as target:
            target.writestr("a.txt", "text")
    else:
        with tarfile.open(fileobj=file, mode=kind) as target:
            about = tarfile.TarInfo("a.txt")
            about.size = 4
            target.addfile(about, io.BytesIO(b"text"))
    return file.getvalue()


def database(folder: Path) -> bytes:
    with sqlite3.connect(folder / "x.db") as connection:
        connection.execute("create table t (x)")
    connection.close()
    return (folder / "x.db").read_bytes()


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("zip", "is a zip archive; unzip it and name the folder"),
        ("w", "is a tar archive; unpack it (tar -xf) and name the folder"),
        ("w:gz", "is a tar archive, compressed by gzip; unpack it"),
        ("w:xz", "is a tar archive, compressed by xz; unpack it"),
        ("database", "is an SQLite database; export a table as CSV or JSONL"),
        ("pickle", "is a pickle; a pickle can run any program and is never read"),
        ("pdf", "is a PDF document; pdftotext makes text of it"),
        ("twice", "is compressed twice (gzip of xz); decompress it once"),
        ("parquet in gzip", "is parquet compressed by gzip; decompress it"),
    ],
)
def test_what_is_not_read_is_one_line_and_left_in_a_folder(tmp_path: Path, kind: str, said: str) -> None:
    contents = {
        "database": database,
        "pickle": lambda folder: pickle.dumps({"a": [1]}),
        "pdf": lambda folder: b"%PDF-1.7\n",
        "twice": lambda folder: gzip.compress(lzma.compress(LINES)),
        "parquet in gzip": lambda folder: gzip.compress(table("parquet")),
    }
    content = contents[kind](tmp_path) if kind in contents else archive(kind)
    folder = write_documents(tmp_path / "s", {"thing.txt": content, "a.txt": b"text " * 500})
    with pytest.raises(ConfigError) as refused:
        prepare_here(folder / "thing.txt", tmp_path)
    (line,) = refused.value.problems
    assert line.startswith(f"data.sources: {folder / 'thing.txt'} {said}")
    corpus = prepare_here(folder, tmp_path)
    assert corpus.manifest.binary == 1
    assert corpus.document_names("train") == ["a.txt"]


@pytest.mark.parametrize(
    ("content", "fields", "expected"),
    [
        ("größe\n".encode("latin-1") * 99, {"encoding": "latin-1"}, "größe\n" * 99),
        ("größe\n".encode("utf-16-be") * 99, {"encoding": "utf-16-be"}, "größe\n" * 99),
        ("größe\n".encode("latin-1") * 99, {"errors": "replace"}, "gr\ufffd\ufffde\n" * 99),
        ("größe\n".encode("latin-1") * 99, {"errors": "ignore"}, "gre\n" * 99),
        (b"a\0b\n" * 99, {"errors": "replace"}, "a\ufffdb\n" * 99),
        ("größe\n".encode("utf-8-sig") + "größe\n".encode() * 98, {}, "größe\n" * 99),
        ("größe\n".encode("utf-8-sig") + "größe\n".encode() * 98, {"encoding": "latin-1"}, "größe\n" * 99),
    ],
)
@pytest.mark.parametrize("is_small", [True, False])
def test_a_text_is_written_in_what_its_mark_or_the_setting_says(
    tmp_path: Path, content: bytes, fields: dict[str, object], expected: str, is_small: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if not is_small:
        monkeypatch.setattr("reformer_dist.data.reading.kinds.text.PIECE_BYTES", 64)
    corpus = prepare_here(write_documents(tmp_path / "s", {"a.txt": content}), tmp_path, 0.3, **fields)
    (length,), (more,) = corpus.document_lengths("train"), corpus.document_lengths("validation")
    assert corpus.tokenizer.decode(corpus.read(0, length + more)) == expected


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("fine\ngröße\n".encode("latin-1"), "byte 7 (0xf6) is no UTF-8; data.encoding says what it is (latin-1,"),
        (b"fine\n" * 40 + b"\xff", "byte 200 (0xff) is no UTF-8"),
        (b"fine\n" * 40 + b"\0", "byte 200 is NUL, which text does not hold"),
        ("größe".encode("utf-16-le"), "byte 1 is NUL, which text does not hold; data.encoding = utf-16"),
    ],
)
@pytest.mark.parametrize("is_small", [True, False])
def test_what_is_wrong_with_a_text_is_named_with_its_place(
    tmp_path: Path, content: bytes, said: str, is_small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_small:
        monkeypatch.setattr("reformer_dist.data.reading.kinds.text.PIECE_BYTES", 7)
    with pytest.raises(OSError, match=r"a\.txt: byte") as refused:
        prepare_here(write_documents(tmp_path / "s", {"a.txt": content}) / "a.txt", tmp_path)
    assert f"a.txt: {said}" in str(refused.value)


def test_a_boundary_does_not_come_from_a_line(tmp_path: Path) -> None:
    lines = b'{"text": "fine"}\n' * 30 + b'{"text": "a\\u0000b"}\n'
    with pytest.raises(OSError, match=r"a\.jsonl#510: byte 1 of it is NUL, which marks where a document ends"):
        prepared(tmp_path, "a.jsonl", lines)
    assert prepared(tmp_path, "a.jsonl", lines, on_bad="skip") == {"fine"}


def test_the_saved_folder_of_a_data_set_is_its_rows(tmp_path: Path) -> None:
    about = json.dumps({"features": {}, "description": "stories"}).encode()
    files = {"data-00000-of-00001.arrow": table("stream"), "dataset_info.json": about, "state.json": about}
    folder = write_documents(tmp_path / "saved", files)
    assert documents(prepare_here(folder, tmp_path, 0.3)) == set(TEXTS)
    hub = {"data/train.parquet": table("parquet"), "README.md": b"# Stories", "LICENSE": b"none", "about.json": about}
    folder = write_documents(tmp_path / "hub", hub)
    assert documents(prepare_here(folder, tmp_path, 0.3)) == set(TEXTS)
    assert list(list_sources([str(folder)]).left.lines()) == [
        "3 files about the tables beside them (LICENSE, README.md, about.json)"
    ]


def test_arrays_and_pictures_are_known_by_their_bytes(tmp_path: Path) -> None:
    file = io.BytesIO()
    np.savez(file, x=np.zeros((3, 2, 2), np.uint8))
    folder = write_documents(tmp_path, {"a.dat": file.getvalue(), "b.dat": b"\xff\xd8\xff\xe0", "c.dat": b"plain"})
    listed = list_sources([f"{folder}/*.dat"]).files
    assert [recognise(each, DataConfig()).format for each in listed] == ["array", "image", "text"]
    assert {recognise(each, DataConfig(format="text")).format for each in listed} == {"text"}


@pytest.mark.parametrize("encoding", ["latin-9000", "base64", "", "rot13"])
def test_an_encoding_that_is_none_is_one_line(encoding: str) -> None:
    with pytest.raises(ConfigError, match="is no encoding that Python knows; utf-8, latin-1"):
        load_config(None, {"data.encoding": encoding})
