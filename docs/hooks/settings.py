"""The page of all settings: every field of the configuration with its type, its default and its help.

In: the sections of `reformer_dist.config.Config`. Out: a page with a table for each.
"""

import inspect
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic.fields import FieldInfo

from reformer_dist.config import Config, Section

INTRODUCTION = """# Settings

Each field can be set in YAML, on the command line (`--model.num_hashes 4`, values of several parts separated by commas), in
Python (`load_config(path, {"model.num_hashes": 4})`), or swept. Unknown names and wrong values are one line.
"""
SIGNS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page."""
    files.append(File.generated(config, "reference/settings.md", content=page()))
    return files


def page() -> str:
    """A heading and a table for each section."""
    return "\n".join([INTRODUCTION, *_tables()])


def _tables() -> Iterator[str]:
    for name, section in Config.model_fields.items():
        assert isinstance(section.annotation, type)
        assert issubclass(section.annotation, Section)
        yield f"\n## {name}\n\n{inspect.getdoc(section.annotation)}\n"
        yield "| field | type | default | meaning |\n|---|---|---|---|"
        for field, info in section.annotation.model_fields.items():
            kind = " ".join([kind_in_words(info.annotation), *_limits(info.metadata)])
            cells = (f"`{name}.{field}`", kind, f"`{_default(info)}`", info.description or "")
            yield f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def kind_in_words(annotation: Any) -> str:
    """A type as a user of YAML would call it: "int > 0 or none", "several of local / lsh"."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return " ".join([kind_in_words(inner[0]), *_limits(inner[1:])])
    if origin is Literal:
        return " / ".join(str(value) for value in inner)
    if origin in (Union, types.UnionType):
        return " or ".join(kind_in_words(kind) for kind in inner)
    if origin is tuple and inner[-1] is Ellipsis:
        return f"several of {kind_in_words(inner[0])}"
    if origin is tuple:
        return ", ".join(kind_in_words(kind) for kind in inner)
    if origin is dict:
        return f"{kind_in_words(inner[1])} by name"
    return "none" if annotation is types.NoneType else getattr(annotation, "__name__", str(annotation))


def _limits(metadata: Any) -> Iterator[str]:
    """What a value must also be: "> 0"."""
    for limit in metadata:
        for name, sign in SIGNS.items():
            if (bound := getattr(limit, name, None)) is not None:
                yield f"{sign} {bound}"


def _default(info: FieldInfo) -> str:
    """A field's default as YAML or the command line has it."""
    value = info.get_default(call_default_factory=True)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(str(part) for part in value)
    return "none" if value is None or value == {} else str(value)
