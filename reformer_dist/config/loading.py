"""One path into the configuration: a YAML file, dotted command-line options or a dictionary in, a `Config` out.

Mistakes are one `ConfigError` with a readable line for each.
"""

import argparse
import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict

from reformer_dist.config.configuration import Config
from reformer_dist.errors import ConfigError


def load_config(path: str | Path | None = None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read a YAML file, lay `overrides` over it and validate.

    Args:
        path: YAML file with sections as in `Config`; None for the defaults alone.
        overrides: values by dotted name, {"model.num_hashes": 4}, or nested, {"model": {"num_hashes": 4}}. Strings are
            converted as on the command line.

    Raises:
        ConfigError: a missing or malformed file, or a line for each unknown field, wrong type, and values that do not fit
            together.
    """
    tree: dict[str, Any] = {}
    if path is not None:
        tree = _read_yaml(Path(path))
    for name, value in flatten(overrides or {}):
        _set(tree, name, value)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(*_problems(error, tree)) from None


def parse_command_line(description: str, arguments: Sequence[str] | None = None) -> Config:
    """Read `--config FILE --section.field VALUE ...` (by default this process's arguments) into a Config.

    `--help` prints every field with its meaning and default. Mistakes end the process with a line each and status 2.
    """
    parser = _Parser(
        usage="%(prog)s [--config FILE] [--section.field VALUE ...]",
        description=description,
        epilog="Values of several parts are separated by commas: --model.layers local,lsh",
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file with any of the fields below; options win over it")
    source = CliSettingsSource[argparse.ArgumentParser](_Options, root_parser=parser, cli_parse_args=False)
    namespace, unknown = parser.parse_known_args(arguments)
    options = [option for option in unknown if option.startswith("--")] or unknown[:1]
    problems = [_unknown(option.removeprefix("--").split("=")[0]) for option in options]
    given = source(parsed_args={k: v for k, v in vars(namespace).items() if k != "config" and v is not None})()
    try:
        config = load_config(namespace.config, given)
    except ConfigError as error:
        problems += error.problems
    if problems:
        parser.refuse(problems)
    return config


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a nested dictionary with dotted names; the values of `tune.space` count as one leaf."""
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and name != "tune.space":
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
    """Answers mistakes with a line each instead of a screenful of usage."""

    def error(self, message: str) -> NoReturn:
        self.refuse([message])

    def refuse(self, problems: Sequence[str]) -> NoReturn:
        self.exit(2, "".join(f"{self.prog}: {problem}\n" for problem in problems))


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, field_names(), n=1, cutoff=0.5)
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


def _problems(error: ValidationError, tree: Mapping[str, Any]) -> list[str]:
    """A line for each mistake: of pydantic's errors, then between those sections that are right.

    Pydantic compares no sections while one of them is wrong.
    """
    errors = error.errors(include_url=False)
    problems = [line for mistake in _by_field(errors) for line in _explain(mistake)]
    wrong = {mistake["loc"][0] for mistake in errors if mistake["loc"]}
    if not wrong:
        return problems
    sections = {
        name: type(info.default).model_validate(tree.get(name, {}))
        for name, info in Config.model_fields.items()
        if name not in wrong
    }
    return problems + list(Config.model_construct(**sections).problems_between(sections))


def _by_field(errors: Sequence[ErrorDetails]) -> Iterable[ErrorDetails]:
    """The first error of each field, which may have one for each type that it could be and for each of its values."""
    first: dict[tuple[int | str, ...], ErrorDetails] = {}
    for mistake in errors:
        first.setdefault(mistake["loc"][:2], mistake)
    return first.values()


def _explain(mistake: ErrorDetails) -> Sequence[str]:
    """A line for one of pydantic's errors; as many as a section's own comparison of its fields found."""
    names = [str(part) for part in mistake["loc"]]
    name = ".".join(names[:2])
    if mistake["type"] == "extra_forbidden":
        return [_unknown(name)]
    if mistake["type"] == "value_error":
        found = mistake["ctx"]["error"]
        return found.problems if isinstance(found, ConfigError) else [str(found)]
    reason = mistake["msg"].removeprefix("Input ")
    section = Config.model_fields[names[0]].default
    default = getattr(section, names[1], None) if len(names) > 1 else None
    example = f"; {default!r} works" if default is not None else ""
    return [f"{name} = {mistake['input']!r} {reason}{example}"]
