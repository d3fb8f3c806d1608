"""The reference from docstrings: a page of the public names, and a page for each package with all its modules.

In: the packages as they are in the repository when the site is built. Out: pages of directives that mkdocstrings fills, and
their place in the navigation.
"""

from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PACKAGE = "reformer_dist"
PUBLIC = (PACKAGE, f"{PACKAGE}.generation", f"{PACKAGE}.model.huggingface")
"""Packages whose `__all__` is what callers outside the project use."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages, and lead to them from the navigation's last section."""
    root = Path(config.config_file_path).parent
    files.append(File.generated(config, "reference/python.md", content=public_names(root)))
    for folder in packages(root):
        files.append(File.generated(config, _place(root, folder), content=room(root, folder)))
    assert config.nav is not None
    config.nav.append({"Rooms": _navigation(root, root / PACKAGE)})
    return files


def public_names(root: Path) -> str:
    """The page of the names that are for other programs."""
    lines = ["# Python", "", "What other programs may import. Settings are [fields of the configuration](settings.md)."]
    seen = set()
    for package in PUBLIC:
        path = root.joinpath(*package.split("."), "__init__.py")
        for name in griffe.visit(package, path, path.read_text()).exports or ():
            if str(name) not in seen and not str(name).startswith("_"):
                seen.add(str(name))
                lines += ["", f"::: {package}.{name}"]
    return "\n".join(lines)


def packages(root: Path) -> list[Path]:
    """The folders of our package and of all packages in it."""
    return sorted(path.parent for path in (root / PACKAGE).rglob("__init__.py"))


def _place(root: Path, folder: Path) -> str:
    return f"reference/{_dotted(root, folder)}.md"


def _dotted(root: Path, path: Path) -> str:
    return ".".join(path.relative_to(root).with_suffix("").parts)


def room(root: Path, folder: Path) -> str:
    """A package's page: its own docstring, if it has one, and its modules."""
    name = _dotted(root, folder)
    lines = [f"# {name}"]
    if (folder / "__init__.py").read_text():
        lines += ["", f"::: {name}", "    options: {members: false, show_root_heading: false}"]
    for module in sorted(folder.glob("[!_]*.py")):
        lines += ["", f"::: {_dotted(root, module)}"]
    return "\n".join(lines)


def _navigation(root: Path, folder: Path) -> list[Any]:
    """A package's page, and what is inside it: a page, or a section for a package that has packages."""
    entries: list[Any] = [_place(root, folder)]
    for inner in sorted(path.parent for path in folder.glob("*/__init__.py")):
        inside = _navigation(root, inner)
        entries.append({inner.name: inside if len(inside) > 1 else inside[0]})
    return entries
