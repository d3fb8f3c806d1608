"""What data.sources may be, and the one line a mistake gets."""

from pathlib import Path

import pytest

from reformer_dist.data.reading.sources import list_files
from reformer_dist.errors import ConfigError
from tests.corpora import write_documents

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
