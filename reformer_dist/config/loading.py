"""One path into the configuration: a YAML file, dotted command-line options or a dictionary in, a `Config` out.

A mistake is a `ConfigError` whose text is one readable line.
"""

import argparse
import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from pydantic import ValidationError
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict, SettingsError

from reformer_dist.config.configuration import Config
from reformer_dist.config.data import FieldConfig
from reformer_dist.config.section import Section
from reformer_dist.errors import ConfigError

_ENTRIES: dict[str, type[Section]] = {"data.fields": FieldConfig}
"""Fields that are dictionaries of sections, and which."""


def load_config(path: str | Path | None = None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read a YAML file, lay `overrides` over it and validate.

    Args:
        path: YAML file with sections as in `Config`; None for the defaults alone.
        overrides: values by dotted name, {"model.num_hashes": 4}, or nested, {"model": {"num_hashes": 4}}. Strings are
            converted as on the command line.

    Raises:
        ConfigError: a missing or malformed file, an unknown field, a wrong type, or values that do not fit together.
    """
    tree: dict[str, Any] = {}
    if path is not None:
        tree = _read_yaml(Path(path))
    for name, value in flatten(overrides or {}):
        _set(tree, name, value)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from None


def parse_command_line(description: str, arguments: Sequence[str] | None = None) -> Config:
    """Read `--config FILE --section.field VALUE ...` (by default this process's arguments) into a Config.

    `--help` prints every field with its meaning and default. A mistake ends the process with one line and status 2.
    """
    parser = _Parser(
        usage="%(prog)s [--config FILE] [--section.field VALUE ...]",
        description=description,
        epilog="Values of several parts are separated by commas: --model.layers local,lsh",
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file with any of the fields below; options win over it")
    source = CliSettingsSource[argparse.ArgumentParser](_Options, root_parser=parser, cli_parse_args=False)
    namespace = parser.parse_args(arguments)
    options = {name: value for name, value in vars(namespace).items() if name != "config" and value is not None}
    try:
        return load_config(namespace.config, source(parsed_args=options)())
    except SettingsError as error:
        parser.error(f"{' '.join(str(error).split())}; a JSON object works")
    except ConfigError as error:
        parser.error(str(error))


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The fields of a nested dictionary by dotted name; a field whose value is a dictionary (`tune.space`) is one, too."""
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and "." not in name:
            yield from flatten(value, f"{name}.")
        else:
            yield name, value


def field_names() -> list[str]:
    """Dotted names of all fields."""
    return [
        f"{section}.{field}"
        for section, info in Config.model_fields.items()
        for field in info.default.__class__.model_fields
    ]


class _Options(BaseSettings, Config):
    model_config = SettingsConfigDict(
        cli_avoid_json=True, cli_hide_none_type=True, nested_model_default_partial_update=True
    )


class _Parser(argparse.ArgumentParser):
    """Answers a mistake with one line instead of a screenful of usage."""

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments: "):
            option = message.split(": ", 1)[1].split()[0]
            message = _unknown(option.removeprefix("--").split("=")[0], field_names())
        self.exit(2, f"{self.prog}: {message}\n")


def _unknown(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else "--help lists the fields"
    return f"unknown field {name}; {hint}"


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"--config {path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"--config {path}: not valid YAML: {' '.join(str(error).split())}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"--config {path}: must hold sections such as 'model:', not a {type(tree).__name__}")
    return tree


def _set(tree: dict[str, Any], name: str, value: Any) -> None:
    *parents, leaf = name.split(".", 1)
    for parent in parents:
        child = tree.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"{parent} = {child!r}: must be a section with fields, such as {name}")
        tree = child
    tree[leaf] = value


def _explain(error: ValidationError) -> str:
    """One line for the first of pydantic's errors."""
    first = error.errors(include_url=False)[0]
    names = [str(part) for part in first["loc"]]
    name = ".".join(names[:2])
    entry = _ENTRIES.get(name) if len(names) > 2 else None
    if entry is not None:
        name = ".".join(names[:4])
    if first["type"] == "extra_forbidden":
        known = [] if entry is None else [".".join([*names[:3], field]) for field in entry.model_fields]
        return _unknown(name, known or field_names())
    if not names or first["type"] == "value_error":
        return first["msg"].removeprefix("Value error, ")
    reason = first["msg"].removeprefix("Input ")
    parents = 1 if entry is None else 3
    section = Config.model_fields[names[0]].default if entry is None else entry()
    default = getattr(section, names[parents]) if len(names) > parents else entry and {}
    example = f"; {default!r} works" if default is not None else ""
    return f"{name} = {first['input']!r} {reason}{example}"
