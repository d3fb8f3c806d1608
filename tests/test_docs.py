"""What the pages say exists: files, modules, tests, fields, commands, and what they link to.

`make docs` checks links and anchors of all pages; here a dead one is shown to end the build. The lab log is history and may
name what is gone.
"""

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Annotated, Literal

import pytest
from annotated_types import Gt

from reformer_dist.config import Config, field_names

ROOT = Path(__file__).parents[1]
FOLDERS = (ROOT, ROOT / "reformer_dist")
"""Where a path in a page may start, beside the page's own folder."""
PAGES = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("cluster/*.md")} - {ROOT / "docs/lab_log.md"})
FIELDS = set(field_names())
TESTS = {
    name
    for path in ROOT.glob("tests/**/test_*.py")
    for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
}
FILE = re.compile(
    r"(?<![\w./*-])(?:[\w.-]+/)*[\w.-]+\.(?:py|md|cpp|h|sh|toml)\b|(?<![\w./*-])(?:cluster|jobs)/[\w/-]+\.yaml\b"
)
FOLDER = re.compile(r"(?:[a-z_]+/)+")
SETTING = re.compile(rf"((?:{'|'.join(Config.model_fields)})\.[a-z_]+)(?=$|[ :=,])(?<!\.py)(?<!\.md)(?<!\.safetensors)")


def in_backticks(text: str) -> list[str]:
    """Code within a line of prose or a table."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"`([^`\n]+)`", prose)


def missing_files(text: str, folder: Path) -> Iterator[str]:
    """Files and folders in backticks, and commands anywhere, that the repository does not have."""
    names = [name for code in in_backticks(text) for name in FILE.findall(code)]
    names += [code for code in in_backticks(text) if FOLDER.fullmatch(code)]
    names += re.findall(r"(?<![\w/])jobs/[\w/]+\.(?:py|yaml)", text)
    yield from (name for name in names if not any((start / name).exists() for start in (*FOLDERS, folder)))


def missing_tests(text: str) -> Iterator[str]:
    """Names of tests in backticks that no test has."""
    yield from (code for code in in_backticks(text) if re.fullmatch(r"test_\w+", code) and code not in TESTS)


def missing_modules(text: str) -> Iterator[str]:
    """Dotted names of the package that are no module, nor a name that stands in one."""
    for name in re.findall(r"(?<![\w./])reformer_dist(?:\.\w+)+", text):
        parts = name.split(".")
        while parts and not (path := module_path(parts)):
            parts.pop()
        rest = name.split(".")[len(parts) :]
        if rest and not re.search(rf"\b{rest[0]}\b", path.read_text()):
            yield name


def module_path(parts: list[str]) -> Path | None:
    path = ROOT.joinpath(*parts)
    return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.exists()), None)


def missing_fields(text: str) -> Iterator[str]:
    """Options, and settings in backticks, that are no field of the configuration."""
    names = re.findall(r"--([a-z_]+\.[a-z_]+)", text)
    names += [found[1] for code in in_backticks(text) if (found := SETTING.match(code))]
    yield from (name for name in names if name not in FIELDS)


def missing(text: str, folder: Path) -> Iterator[str]:
    """Whatever a page of that folder names and that is not there."""
    yield from missing_files(text, folder)
    yield from missing_modules(text)
    yield from missing_tests(text)
    yield from missing_fields(text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_names_exists(page: Path) -> None:
    text = page.read_text()
    assert [*missing(text, page.parent)] == []


@pytest.mark.parametrize(
    "text",
    [
        "| promise | `tests/model/test_gone.py` |",
        "see `model/gone/` for it",
        "`cluster/gone.yaml`",
        "```\npython jobs/gone.py\n```",
        "`reformer_dist.gone`",
        "`reformer_dist.generation.gone`",
        "`model.gone: 4`",
        "copy `test_what_is_gone`",
        "```\npython jobs/train.py --model.gone 4\n```",
    ],
)
def test_what_does_not_exist_is_seen(text: str) -> None:
    assert len([*missing(text, ROOT)]) == 1


@pytest.mark.parametrize(
    "text",
    [
        "`jobs/train.py` and `parallel/topology.py`, `model/attention/`",
        "`STORAGE/RUN/step_1/` holds `model.safetensors` and `config.yaml`",
        "`reformer_dist.model.huggingface.from_pretrained(folder)`",
        "`model.num_hashes: 4`, `--train.steps 3`, `model.with_settings(num_hashes=8)`",
    ],
)
def test_what_exists_is_taken(text: str) -> None:
    assert [*missing(text, ROOT)] == []


def test_every_room_is_in_the_table_of_rooms() -> None:
    rooms = {path.parent.name for path in (ROOT / "reformer_dist").glob("*/__init__.py")}
    rows = re.findall(r"^\| `(\w+)/`", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE)
    assert set(rows) == rooms


def build(folder: Path, page: str) -> subprocess.CompletedProcess[str]:
    """Build the site of a repository of a README, a file and one page, with our settings but without the reference."""
    (folder / "docs").mkdir()
    (folder / "README.md").write_text("# Read me\n\n## First\n\n[page](docs/page.md#second)\n")
    (folder / "docs/page.md").write_text(f"# Page\n\n## Second\n\n{page}\n")
    (folder / "aws.yaml").write_text("min_workers: 1\n")
    settings = [
        f"INHERIT: {ROOT / 'mkdocs.yml'}",
        f"hooks: [{ROOT / 'docs/hooks/repository.py'}]",
        "plugins: []",
        "use_directory_urls: false",
        "nav: [index.md, page.md]",
        "site_dir: site",
    ]
    (folder / "mkdocs.yml").write_text("\n".join(settings))
    command = [sys.executable, "-m", "mkdocs", "build"]  # --quiet would drop the warnings that strict builds count
    return subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)


def test_links_work_in_the_repository_and_in_the_site(tmp_path: Path) -> None:
    result = build(tmp_path, "[home](../README.md#first) [a file](../aws.yaml) [here](#second)")
    assert result.returncode == 0, result.stderr
    page = (tmp_path / "site/page.html").read_text()
    assert 'href="index.html#first"' in page
    assert 'href="files/aws.yaml"' in page
    assert 'href="page.html#second"' in (tmp_path / "site/index.html").read_text()
    assert (tmp_path / "site/files/aws.yaml").exists()


@pytest.mark.parametrize("link", ["gone.md", "../GONE.md", "#gone", "../README.md#gone", "index.md", "/page.md"])
def test_a_dead_link_ends_the_build(tmp_path: Path, link: str) -> None:
    result = build(tmp_path, f"[dead]({link})")
    assert result.returncode != 0
    assert "strict mode" in result.stdout
    assert link.split("#")[-1] in result.stderr


def hook(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / f"docs/hooks/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_settings_page_has_every_field_with_its_help() -> None:
    rows = {row.split("|")[1].strip(): row for row in hook("settings").page().splitlines() if row.startswith("| `")}
    assert set(rows) == {f"`{name}`" for name in FIELDS}
    for section, info in Config.model_fields.items():
        for field, inner in info.annotation.model_fields.items():
            assert inner.description, f"{section}.{field} has no help"
            assert inner.description.replace("|", "&#124;") in rows[f"`{section}.{field}`"]


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (Annotated[int, Gt(0)] | None, "int > 0 or none"),
        (tuple[Literal["local", "lsh"], ...], "several of local / lsh"),
        (tuple[int, int], "int, int"),
        (dict[str, float], "float by name"),
    ],
)
def test_types_in_words(annotation: object, words: str) -> None:
    assert hook("settings").kind_in_words(annotation) == words


def test_the_reference_has_all_modules_and_public_names() -> None:
    rooms = hook("rooms")
    pages = "\n".join(rooms.room(ROOT, folder) for folder in rooms.packages(ROOT))
    modules = [path for path in (ROOT / "reformer_dist").rglob("*.py") if not path.name.startswith("_")]
    directives = set(re.findall(r"^::: (\S+)$", pages, flags=re.MULTILINE))
    assert {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in modules} <= directives
    names = set(re.findall(r"^::: \S+\.(\w+)$", rooms.public_names(ROOT), flags=re.MULTILINE))
    assert names >= {
        "Config",
        "ModelConfig",
        "load_config",
        "ReformerLM",
        "generate",
        "from_pretrained",
        "to_pretrained",
    }
