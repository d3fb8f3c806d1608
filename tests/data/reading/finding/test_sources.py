"""What data.sources may be, and the one line a mistake gets."""

import os
from pathlib import Path

import pytest

from reformer_dist.config import load_config
from reformer_dist.data.reading.files import read_head
from reformer_dist.data.reading.finding.sources import list_files, list_sources
from reformer_dist.errors import ConfigError
from tests.corpora import prepare_here, write_documents

FILES = {"b.txt": b"bb", "a.txt": b"a", "deep/er/c.txt": b"ccc", "deep/d.md": b"d", ".git/config": b"x", "empty": b""}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_documents(tmp_path / "my texts", FILES)


def names(*sources: object) -> list[str]:
    return [document.name for document in list_files([str(source) for source in sources])]


def test_a_folder_is_walked_and_hidden_and_empty_files_are_left_out(folder: Path) -> None:
    assert names(folder) == ["a.txt", "b.txt", "deep/d.md", "deep/er/c.txt"]


def test_globs(folder: Path) -> None:
    assert names(f"{folder}/*.txt") == ["a.txt", "b.txt"]
    assert names(f"{folder}/**/*.txt") == ["a.txt", "b.txt", "deep/er/c.txt"]
    assert names(f"{folder}/deep/?.md") == ["d.md"]
    assert names(f"{folder}/[ab].txt") == ["a.txt", "b.txt"]


def test_a_file_whose_name_looks_like_a_glob_is_itself(folder: Path) -> None:
    write_documents(folder, {"[ab].txt": b"brackets"})
    assert names(f"{folder}/[ab].txt") == ["[ab].txt"]


def test_a_file_named_twice_is_one_document(folder: Path) -> None:
    assert names(folder / "b.txt", f"{folder}/*.txt", folder / "b.txt") == ["a.txt", "b.txt"]


def test_urls(folder: Path, tmp_path: Path) -> None:
    write_documents(tmp_path, {"plain/a.txt": b"a"})
    assert names(f"file://{tmp_path}/plain") == ["a.txt"]
    (document,) = list_files([f"file://{tmp_path}/plain/a.txt"])
    assert (document.size, Path(document.url).read_bytes()) == (1, b"a")


def test_the_standard_library_is_python_without_tests_and_packages() -> None:
    found = list_files(["stdlib"])
    listed = {document.name for document in found}
    assert {"argparse.py", "asyncio/events.py"} <= listed
    assert not any("test" in name.split("/") or "site-packages" in name for name in listed)
    assert 5e6 < sum(document.size or 0 for document in found) < 40e6


@pytest.mark.parametrize("source", ["nowhere", "nothing/*.txt", "unknown://bucket/key", "http://127.0.0.1:9/x.txt"])
def test_a_source_that_is_not_there_is_named(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"^data\.sources = ") as caught:
        list_files(["stdlib", source])
    assert source in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_folder_and_empty_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match=r"data\.sources = .*folder: no files there"):
        list_files([str(tmp_path / "folder")])
    write_documents(tmp_path / "folder", {"empty": b""})
    with pytest.raises(ConfigError, match=r"data\.sources = .*folder: holds only empty files"):
        list_files([str(tmp_path / "folder")])


CHAFF = (".DS_Store", "._a.txt", "a.txt~", "#a.txt#", "b.bak", "Thumbs.db", "poetry.lock", "x.part", "_SUCCESS")


def test_what_nobody_means_as_data_is_left_and_counted(folder: Path) -> None:
    write_documents(folder, dict.fromkeys((*CHAFF, "__MACOSX/c.txt", ".hidden/d.txt"), b"x"))
    expected = ["a.txt", "b.txt", "deep/d.md", "deep/er/c.txt"]
    assert names(folder) == names(f"{folder}/**/*") == expected
    assert names(f"{folder}/*") == expected[:2]
    left = list_sources([str(folder)]).left
    assert left.counts == {"hidden files and folders": 4, "backups, locks and files about files": 8, "empty files": 1}
    assert "4 hidden files and folders (.DS_Store, ._a.txt, .git/, ...)" in str(left).split("; ")


def test_what_a_glob_names_is_meant(folder: Path) -> None:
    write_documents(folder, dict.fromkeys(CHAFF, b"x"))
    assert names(f"{folder}/*.bak") == ["b.bak"]
    assert names(f"{folder}/*~") == ["a.txt~"]
    assert names(f"{folder}/.git/*") == ["config"]
    assert names(f"{folder}/._*") == ["._a.txt"]
    assert names(folder / "Thumbs.db") == ["Thumbs.db"]


def test_links_lead_to_each_file_once(folder: Path, tmp_path: Path) -> None:
    write_documents(tmp_path / "elsewhere", {"far.txt": b"far"})
    (folder / "deep" / "all").symlink_to(folder)  # to its own parent
    (folder / "deep" / "self").symlink_to("self")
    (folder / "0_latest.txt").symlink_to("b.txt")  # before it in order, and not itself
    (folder / "zz").symlink_to(tmp_path / "elsewhere")
    (folder / "gone.txt").symlink_to("nowhere.txt")
    os.link(folder / "a.txt", folder / "z_hard.txt")
    expected = ["a.txt", "b.txt", "deep/d.md", "deep/er/c.txt", "zz/far.txt"]
    assert names(folder) == expected
    assert names(folder, f"{folder}/deep/../**/*.txt", tmp_path / "elsewhere") == expected
    assert names(f"{folder}/**/*.txt") == [name for name in expected if name.endswith(".txt")]
    counts = list_sources([str(folder)]).left.counts
    assert counts["links that lead nowhere"] == 2
    assert counts["links to folders that are read already"] == 1
    assert counts["the same file by another name"] == 2


def test_a_name_that_is_no_utf8_is_read_and_shown(tmp_path: Path) -> None:
    write_documents(tmp_path / "old", {"b.txt": b"b" * 500})
    raw = os.fsencode(tmp_path / "old") + b"/caf\xe9 %41.txt"
    with open(raw, "wb") as file:
        file.write(b"an old file " * 50)
    for source in (tmp_path / "old", f"{tmp_path}/old/*.txt"):
        (_, found) = list_files([str(source)])
        assert found.name == "caf\\xe9 %41.txt"
        assert found.url == f"file://{tmp_path}/old/caf%E9%20%2541.txt"
        assert read_head(found.url, 6) == b"an old"
    corpus = prepare_here(tmp_path / "old", tmp_path)
    assert corpus.document_names("train") == ["b.txt", "caf\\xe9 %41.txt"]
    assert names(os.fsdecode(raw)) == ["caf\\xe9 %41.txt"]


@pytest.mark.parametrize("sources", ["", "texts/,", " , ", ["texts", ""]])
def test_an_empty_source_is_a_mistake_and_not_this_folder(sources: object) -> None:
    with pytest.raises(ConfigError, match=r"^data\.sources = .* has an empty entry, as a variable that is not set"):
        load_config(None, {"data.sources": sources})


def test_a_folder_that_may_not_be_read_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("reformer_dist.data.reading.finding.walking.os.scandir", refuse)
    with pytest.raises(ConfigError, match=rf"^data\.sources = {folder}: .*Permission denied"):
        list_files([str(folder)])
