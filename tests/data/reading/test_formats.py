"""Every format gives its documents, whole, compressed or not, in one slice or many."""

import gzip
import io
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from reformer_dist.config import DataConfig
from reformer_dist.data.preparing.corpus import Corpus
from reformer_dist.data.preparing.manifest import SPLITS
from reformer_dist.data.reading import choice, delimited
from reformer_dist.data.reading.choice import read_records, recognise, slices_of
from reformer_dist.data.reading.columns import wanted_of
from reformer_dist.data.reading.finding.sources import SourceFile
from reformer_dist.data.reading.kinds import csv as csv_reader
from reformer_dist.data.reading.kinds import jsonl as jsonl_reader
from reformer_dist.data.reading.kinds import text
from reformer_dist.data.reading.records import one_by_one
from reformer_dist.data.reading.slices import FileSlice
from reformer_dist.data.tokenizers.tokenizer import TEXT_CONTENT
from reformer_dist.errors import ConfigError
from tests.corpora import prepare_here, write_documents

TEXTS = [f'text {i}, "quoted" and é\n' * (i % 5 + 1) for i in range(40)]
PROTEINS = ["MKV" * (i + 20) for i in range(40)]
WANTED = wanted_of(DataConfig(), 0, {"text": TEXT_CONTENT})
PICTURES = np.random.default_rng(1).integers(0, 256, (30, 4, 6, 3), np.uint8)


def documents(corpus: Corpus) -> dict[str, str]:
    """Every document of a corpus, decoded, by name."""
    found = {}
    for split in SPLITS:
        spans = zip(corpus.document_starts(split), corpus.document_lengths(split), strict=True)
        for name, (start, length) in zip(corpus.document_names(split), spans, strict=True):
            found[name] = corpus.tokenizer.decode(corpus.read(start, start + length))
    return found


def jsonl(texts: list[str]) -> bytes:
    return b"".join(json.dumps({"id": i, "text": text}).encode() + b"\n" for i, text in enumerate(texts))


def csv(texts: list[str]) -> bytes:
    return ("id,text\n" + "".join('{},"{}"\n'.format(i, t.replace('"', '""')) for i, t in enumerate(texts))).encode()


def fasta(proteins: list[str]) -> bytes:
    lines = (f">p{i} a protein\n{p[:60]}\n{p[60:]}\n" for i, p in enumerate(proteins))
    return "".join(lines).encode()


def parquet(columns: dict[str, object]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file, row_group_size=7)
    return file.getvalue()


def png(levels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "png")
    return file.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": lambda data: gzip.compress(data[:100]) + gzip.compress(data[100:]),
    ".zst": zstandard.compress,
}


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize(
    ("name", "content", "expected", "fields"),
    [
        ("a.jsonl", jsonl(TEXTS), TEXTS, {}),
        ("a.csv", csv(TEXTS), TEXTS, {}),
        ("a.tsv", "".join(f"{i}\t{t.strip()}\n" for i, t in enumerate(TEXTS) if i % 5 == 0).encode(),
         [t.strip() for t in TEXTS[::5]], {"field": "1", "validation_fraction": 0.4}),
        ("a.fasta", fasta(PROTEINS), PROTEINS, {"tokenizer": "amino_acids"}),
        ("a.fa", fasta(PROTEINS).replace(b"\n", b"\r\n"), PROTEINS, {}),
        ("a.npz", npz(x=PICTURES), [" ".join(map(str, p.ravel())) + " " for p in PICTURES], {"tokenizer": "rgb"}),
    ],
)  # fmt: skip
def test_files_of_many_documents(
    name: str, content: bytes, expected: list[str], fields: dict[str, object], suffix: str, tmp_path: Path
) -> None:
    source = write_documents(tmp_path / "s", {name + suffix: COMPRESS[suffix](content)}) / (name + suffix)
    corpus = prepare_here(source, tmp_path, **{"validation_fraction": 0.3, **fields})
    assert corpus.manifest.held_out == "documents"
    found = documents(corpus)
    assert sorted(found.values()) == sorted(expected)
    assert len(found) == len(expected)
    assert all(each.startswith(f"{name}{suffix}#") for each in found)


def test_parquet_of_text_and_of_images(tmp_path: Path) -> None:
    images = [{"bytes": png(p), "path": None} for p in PICTURES]
    source = write_documents(tmp_path / "s", {"a.parquet": parquet({"other": TEXTS, "text": TEXTS}),
        "b.parquet": parquet({"image": images, "levels": PICTURES.tolist()})})  # fmt: skip
    assert sorted(documents(prepare_here(source / "a.parquet", tmp_path, 0.3)).values()) == sorted(TEXTS)
    for field in ("image", "levels"):
        corpus = prepare_here(source / "b.parquet", tmp_path, 0.3, field=field, tokenizer="rgb")
        assert sorted(documents(corpus).values()) == sorted(" ".join(map(str, p.ravel())) + " " for p in PICTURES)


def test_a_folder_of_pictures_leaves_other_files_out(tmp_path: Path) -> None:
    files = {f"{i:02d}.png": png(p) for i, p in enumerate(PICTURES)} | {"README.txt": b"photos", "labels.csv": b"a,b\n"}
    corpus = prepare_here(write_documents(tmp_path / "s", files), tmp_path, 0.3, tokenizer="rgb")
    assert corpus.manifest.binary == 2
    assert len(documents(corpus)) == len(PICTURES)
    grey = prepare_here(tmp_path / "s", tmp_path, 0.3, tokenizer="grey")
    assert grey.manifest.split("train").tokens * 3 == corpus.manifest.split("train").tokens


def test_documents_of_one_group_stay_together(tmp_path: Path) -> None:
    photos = np.arange(30) // 5
    write_documents(tmp_path, {"a.npz": npz(tiles=PICTURES, photo=photos)})
    corpus = prepare_here(
        tmp_path / "a.npz", tmp_path, 0.4, field="tiles", split_by="photo", tokenizer="rgb", test_fraction=0.2
    )
    groups = [{photos[int(n.split("#")[1])] for n in corpus.document_names(split)} for split in SPLITS]
    assert sum(map(len, groups)) == 6
    same = np.zeros(30, int)
    write_documents(tmp_path, {"b.npz": npz(tiles=PICTURES, photo=same)})
    with pytest.raises(ConfigError, match=r"data\.split_by = photo: its values put all documents in too few splits"):
        prepare_here(tmp_path / "b.npz", tmp_path, 0.4, field="tiles", split_by="photo", tokenizer="rgb")


def test_lines_that_only_the_standard_library_takes_are_read(tmp_path: Path) -> None:
    lines = b'{"n": NaN, "text": "one"}\n \r\n{"n": "\\ud800", "text": "two"}\r\n{"n": 1, "text": "three"}'
    write_documents(tmp_path, {"a.jsonl": lines})
    assert sliced(tmp_path / "a.jsonl", DataConfig(), 1000) == [
        ("a.jsonl#0", b"one"), ("a.jsonl#29", b"two"), ("a.jsonl#61", b"three")]  # fmt: skip


def test_a_line_longer_than_what_is_read_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "BLOCK_BYTES", 7)
    texts = ["x" * 100, "y", "z" * 50]
    write_documents(tmp_path, {"a.jsonl": jsonl(texts)})
    assert [content.decode() for _, content in sliced(tmp_path / "a.jsonl", DataConfig(), 1000)] == texts


def test_a_field_for_each_source(tmp_path: Path) -> None:
    write_documents(tmp_path, {"a.jsonl": b'{"en": ["one", "two"]}\n' * 9, "b.jsonl": b'{"body": "three"}\n' * 9})
    corpus = prepare_here(f"{tmp_path}/a.jsonl", tmp_path, sources=(f"{tmp_path}/a.jsonl", f"{tmp_path}/b.jsonl"),
        field=("en", "body"))  # fmt: skip
    assert set(documents(corpus).values()) == {"one\ntwo", "three"}


def test_columns_without_quotes_or_nulls_are_taken_as_they_are(tmp_path: Path) -> None:
    write_documents(tmp_path, {"a.tsv": b'text\tn\n"NA\t1\nNA\t2\nnull\t3\n'})
    assert [content for _, content in sliced(tmp_path / "a.tsv", DataConfig(), 1000)] == [b'"NA', b"NA", b"null"]


@pytest.mark.parametrize("mode", ["fail", "skip"])
def test_a_row_that_is_wrong_costs_a_row(tmp_path: Path, mode: str) -> None:
    rows = [f"{i},fine {i}" for i in range(30)]
    rows[7], rows[20] = "7,too,many", "20"
    content = ("n,text\n" + "\n".join(rows) + "\n").encode() + b"30,\xff\n"
    write_documents(tmp_path, {"a.csv": content})
    if mode == "fail":
        with pytest.raises(OSError, match=r"a\.csv#7: it has 3 columns, not 2; --data\.on_bad skip leaves it out"):
            prepare_here(tmp_path / "a.csv", tmp_path)
        return
    corpus = prepare_here(tmp_path / "a.csv", tmp_path, 0.3, on_bad="skip")
    expected = {f"a.csv#{i}": f"fine {i}" for i in range(30) if i not in (7, 20)}
    assert documents(corpus) == expected, "the others keep their numbers"
    assert corpus.manifest.bad == 3


def test_a_row_longer_than_a_block_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_reader, "BLOCK_BYTES", 64)
    rows = [f"{i},{'x' * (200 if i in (11, 25) else 5)}{i}" for i in range(30)]
    write_documents(tmp_path, {"a.csv": ("n,text\n" + "\n".join(rows)).encode()})
    found = documents(prepare_here(tmp_path / "a.csv", tmp_path, 0.3))
    assert found == {f"a.csv#{i}": row.split(",")[1] for i, row in enumerate(rows)}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b"text,n,text\n1,2,3\n"),
        ("a.tsv", b"text\ttext\nx\ty\n"),
        ("a.arrow", b""),
    ],
)
def test_a_column_that_stands_twice_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    if not content:
        file, rows = io.BytesIO(), pa.table([["x"], ["y"]], names=["text", "text"])
        with pa.ipc.new_file(file, rows.schema) as writer:
            writer.write_table(rows)
        content = file.getvalue()
    write_documents(tmp_path, {name: content})
    with pytest.raises(OSError, match=r"it has 2 columns text \(data\.field.*\); its columns: text, "):
        prepare_here(tmp_path / name, tmp_path)


@pytest.mark.parametrize("before", [b"", b"\r\n \n", b"; made on a Tuesday\r\n", b";\n\n;x\n", b"\xef\xbb\xbf"])
def test_fasta_as_it_comes(tmp_path: Path, before: bytes) -> None:
    entries = b"".join(
        b">P%02d made up\r\nMKVLAwqd\r\n; a comment\r\nGHTY-SEK%s*\r\n\r\n" % (i, b"AG" * (i % 5)) for i in range(30)
    )
    write_documents(tmp_path, {"a.fasta": before + entries + b">EMPTY nothing follows\r\n"})
    found = documents(prepare_here(tmp_path / "a.fasta", tmp_path, 0.3, tokenizer="amino_acids"))
    assert found == {f"a.fasta#P{i:02d}": f"MKVLAWQDGHTY-SEK{'AG' * (i % 5)}*" for i in range(30)}


def sliced(path: Path, data: DataConfig, slice_bytes: int) -> list[tuple[str, bytes]]:
    """Documents of a file read in slices of that size, pieces put together."""
    file = SourceFile(path.name, str(path), path.stat().st_size, None)
    found: list[tuple[str, bytes]] = []
    size = path.stat().st_size
    cuts = [*range(0, size, slice_bytes)]
    for start in cuts:
        stop = None if start == cuts[-1] else start + slice_bytes
        piece = recognise(file, data)._replace(start=start, stop=stop)
        for record in one_by_one(read_records(piece, wanted_of(data, 0, {"text": TEXT_CONTENT}))):
            (content,) = record.contents
            content = content.encode() if isinstance(content, str) else content
            if record.continues:
                found[-1] = (found[-1][0], found[-1][1] + content)
            else:
                found.append((record.name, content))
    return found


@settings(deadline=None)  # a busy machine is slow, not wrong
@given(slice_bytes=st.integers(1, 400), piece_bytes=st.integers(1, 50), window=st.integers(6, 60))
def test_slices_hold_each_document_once(
    slice_bytes: int, piece_bytes: int, window: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "slices"
    contents = {
        "a.txt": "".join(TEXTS[:20]).encode(),
        "b.txt": "漢字é".encode() * 60,
        "c.jsonl": b"\n" + jsonl(TEXTS[:12]) + b'{"text": "end"}',
        "d.fasta": fasta(PROTEINS[:12]),
        "e.parquet": parquet({"text": TEXTS}),
    }
    if not folder.exists():
        write_documents(folder, contents)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "PIECE_BYTES", piece_bytes)
        patch.setattr(delimited, "BLOCK_BYTES", piece_bytes)
        patch.setattr(text, "CUT_WINDOW", window)
        for name in contents:
            size = (folder / name).stat().st_size
            whole = sliced(folder / name, DataConfig(), size)
            assert sliced(folder / name, DataConfig(), max(slice_bytes, size // 40)) == whole
            if name == "b.txt":
                file = SourceFile(name, str(folder / name), size, None)
                piece = FileSlice(file, "text", 0, slice_bytes)
                for record in one_by_one(read_records(piece, WANTED)):
                    record.contents[0].decode()  # no character is cut


def test_large_files_are_cut_into_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "SLICE_BYTES", 10)
    file = SourceFile("a.txt", "/a.txt", 25, None)
    whole = FileSlice(file, "text")
    assert [(s.start, s.stop) for s in slices_of(whole)] == [(0, 10), (10, 20), (20, None)]
    for other in ({"format": "csv"}, {"compression": "gzip"}, {"encoding": "latin-1"}, {"errors": "replace"}):
        assert len(list(slices_of(whole._replace(**other)))) == 1
    assert len(list(slices_of(whole._replace(encoding="raw")))) == 3


def test_lines_taken_together_are_those_taken_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [*TEXTS, "", "漢字", "\\ud83d\\ude00"]
    lines = [
        f'{{"group": {json.dumps([None, 7, "ü"][i % 3])}, "text": {json.dumps(t)}}}\n' for i, t in enumerate(texts)
    ]
    source = write_documents(tmp_path / "s", {"a.jsonl": "".join(lines).encode()})
    fields = {"split_by": "group", "validation_fraction": 0.5}
    together = prepare_here(source, tmp_path / "together", **fields)
    assert (
        together.manifest.split("train").documents + together.manifest.split("validation").documents == len(texts) - 1
    )
    monkeypatch.setattr(jsonl_reader, "_plain_lines", lambda *_: None)
    assert prepare_here(source, tmp_path / "alone", **fields).manifest == together.manifest


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_a_bad_line_is_named_by_its_number_whichever_slice_it_is_in(tmp_path: Path, name: str) -> None:
    lines = [f'{{"text": "line {number}"}}\n' if number % 7 else "[]\n" for number in range(1, 100)]
    text = "".join(["\n", *lines]).encode()  # an empty line counts
    write_documents(tmp_path, {name: gzip.compress(text) if name.endswith("gz") else text})
    path, data = tmp_path / name, DataConfig()
    whole = recognise(SourceFile(name, str(path), path.stat().st_size, None), data)
    cuts = [0, None] if name.endswith("gz") else [0, 200, 400, 1000, None]
    found = []
    for start, stop in pairwise(cuts):
        piece = whole._replace(start=start, stop=stop)
        for record in one_by_one(read_records(piece, wanted_of(data, 0, {"text": TEXT_CONTENT}))):
            if record.problem:
                found.append(record.problem.partition(": ")[0])
    assert found == [f"line {number + 1}" for number in range(7, 100, 7)]
