"""What is left out is counted and named, in the manifest and before anything is made; too much of it is a mistake."""

import gzip
import json
from pathlib import Path

import pytest

from reformer_dist.config import DataConfig, load_config
from reformer_dist.data.preparing.preparation import plan_preparation
from reformer_dist.errors import ConfigError
from tests.corpora import prepare_here, write_documents

ROWS = "n,text\n" + "".join(f"{i},fine {i}\n" if i % 10 else f"{i},too,many\n" for i in range(40))


def test_bad_documents_are_named_in_the_manifest(tmp_path: Path) -> None:
    source = write_documents(tmp_path / "s", {"a.csv": ROWS.encode()}) / "a.csv"
    corpus = prepare_here(source, tmp_path, 0.3, on_bad="skip")
    named = [f"a.csv#{row}: it has 3 columns, not 2" for row in (0, 10, 20, 30)]
    assert list(corpus.manifest.problems) == named
    assert json.loads((Path(corpus.folder) / "manifest.json").read_text())["problems"] == named
    good = prepare_here(write_documents(tmp_path / "t", {"a.txt": b"text " * 99}), tmp_path)
    assert "problems" not in json.loads((Path(good.folder) / "manifest.json").read_text())


def test_more_than_the_most_is_a_mistake(tmp_path: Path) -> None:
    source = write_documents(tmp_path / "s", {"a.csv": ROWS.encode()}) / "a.csv"
    prepare_here(source, tmp_path / "four", 0.3, on_bad="skip", most_bad=4)
    with pytest.raises(
        ConfigError, match=r"data\.most_bad = 3: 4 bad documents were left out, first a\.csv#0: .*; 4 works"
    ):
        prepare_here(source, tmp_path / "three", 0.3, on_bad="skip", most_bad=3)


def test_a_limit_goes_with_skipping() -> None:
    with pytest.raises(
        ConfigError, match=r"^data\.most_bad = 3 goes with data\.on_bad = skip; fail stops at the first$"
    ):
        load_config(None, {"data.most_bad": 3})


def test_a_summary_tells_what_would_be_read_and_left(tmp_path: Path) -> None:
    folder = write_documents(
        tmp_path / "s",
        {
            "a.txt": b"text",
            "b.md": b"more text",
            "c.jsonl": gzip.compress(b'{"text": "x"}\n'),
            "d.txt": "größe".encode("utf-16"),
            "e.zip": b"PK\x03\x04" + b"\0" * 40,
            "f.png": b"\x89PNG\r\n\x1a\n",
            ".hidden": b"x",
            "g.txt~": b"x",
            "h.txt": b"",
        },
    )
    lines = list(plan_preparation(DataConfig(sources=(str(folder),)), str(tmp_path / "runs")).summary())
    assert lines[:4] == [
        "text: 2 files, 0.000 MB (a.txt, b.md)",
        "jsonl, compressed by gzip: 1 files, 0.000 MB (c.jsonl)",
        "text in utf-16: 1 files, 0.000 MB (d.txt)",
        "altogether 4 files, 0.000 MB",
    ]
    assert set(lines[4:-1]) == {
        "left: 1 hidden files and folders (.hidden)",
        "left: 1 backups, locks and files about files (g.txt~)",
        "left: 1 empty files (h.txt)",
        "left: 1 of what is a zip archive (e.zip)",
        "left: 1 image files, which the tokenizer does not take (f.png)",
    }
    assert lines[-1].endswith("(not made yet)")
    assert not (tmp_path / "runs").exists()
