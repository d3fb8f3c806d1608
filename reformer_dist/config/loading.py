"""One path into the configuration: a YAML file, dotted command-line options or a dictionary in, a `Config` out.

Mistakes are one `ConfigError` with a readable line for each.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict, SettingsError

from reformer_dist.config.configuration import Config
from reformer_dist.config.mistakes import WrongValues, field_names, unknown_field, without_passwords, wrong_values
from reformer_dist.config.sections.data import OLD_NAME
from reformer_dist.config.yaml_text import parse_yaml
from reformer_dist.errors import ConfigError

_MAPPINGS = {
    "tune.space": '{"model.num_hashes": [1, 4]}',
    "data.fields": '{"source": {"column": "en"}}',
}
"""Fields that are mappings, which the command line takes as JSON or YAML, and an example of each."""
_TEXTS = frozenset(
    f"{section}.{field}"
    for section, info in Config.model_fields.items()
    for field, about in info.default.__class__.model_fields.items()
    if about.annotation is str
)
"""Fields that are any text, for which the command line's None is a word."""
Further = Callable[[Config, frozenset[str]], Sequence[str]]
"""Takes `WrongValues.config` and `WrongValues.right`; returns a line for each mistake that what is right shows already."""


def load_config(path: str | Path | None = None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read a YAML file, lay `overrides` over it and validate.

    Args:
        path: YAML file with sections as in `Config`; None for the defaults alone.
        overrides: values by dotted name, {"model.num_hashes": 4}, or nested, {"model": {"num_hashes": 4}}. Strings are
            converted as on the command line.

    Raises:
        WrongValues: a line for each unknown field, wrong type, and values that do not fit together.
        ConfigError: a missing or malformed file.
    """
    tree: dict[str, Any] = {}
    places: dict[str, str] = {}
    if path is not None:
        tree, places = _read_yaml(Path(path))
    for name, value in flatten(overrides or {}):
        _set(tree, name, value)
        places[name] = ""
    tree = {name: section for name, section in tree.items() if section is not None}  # `optimizer:` alone
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise wrong_values(error, tree, places) from None


def parse_command_line(
    description: str, arguments: Sequence[str] | None = None, further: Further = lambda config, right: ()
) -> Config:
    """Read `--config FILE --section.field VALUE ...` (by default this process's arguments) into a Config.

    `--help` prints every field with its meaning and default. Mistakes end the process with a line each and status 2.

    Args:
        description: first lines of `--help`.
        arguments: the command line.
        further: asked for more mistakes where there are some, so that all are told at once.
    """
    parser = _Parser(
        usage="%(prog)s [--config FILE] [--section.field VALUE ...]",
        description=description,
        epilog="Values of several parts are separated by commas: --model.layers local,lsh",
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file with any of the fields below; options win over it")
    source = CliSettingsSource[argparse.ArgumentParser](_Options, root_parser=parser, cli_parse_args=False)
    namespace, unknown = parser.parse_known_args(_with_new_names(sys.argv[1:] if arguments is None else arguments))
    options = [option for option in unknown if option.startswith("--")] or unknown[:1]
    problems = [unknown_field(option.removeprefix("--").split("=")[0]) for option in options]
    chosen = {name: value for name, value in vars(namespace).items() if name != "config" and value is not None}
    try:
        for name in _MAPPINGS.keys() & chosen.keys():
            chosen[name] = [_as_json(name, text) for text in chosen[name]]
        values = source(parsed_args=chosen)()
        for name in _TEXTS.intersection(name for name, value in chosen.items() if value in ("None", ["None"])):
            _set(values, name, "None")
        config = load_config(namespace.config, values)
    except SettingsError as error:
        parser.refuse([*problems, f"{' '.join(str(error).split())}; a JSON object works"])
    except WrongValues as error:
        parser.refuse([*problems, *error.problems, *further(error.config, error.right)])
    except ConfigError as error:
        parser.refuse([*problems, *error.problems])
    if problems:
        parser.refuse([*problems, *further(config, frozenset(Config.model_fields).union(field_names()))])
    return config


def _with_new_names(arguments: Sequence[str]) -> list[str]:
    """The same with `--data.skip_bad_documents true` as `--data.on_bad skip`, which it is called now."""
    old, text = f"--data.{OLD_NAME}", [*arguments]
    for place, argument in enumerate(text):
        if argument == old and place + 1 < len(text) and not text[place + 1].startswith("--"):
            text[place : place + 2] = [f"{argument}={text[place + 1]}"]
    return [
        f"--data.on_bad={'skip' if argument.partition('=')[2].lower() in ('', 'true', '1') else 'fail'}"
        if argument.partition("=")[0] == old
        else argument
        for argument in text
    ]


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The fields of a nested dictionary by dotted name; a field whose value is a dictionary (`tune.space`) is one, too."""
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and "." not in name:
            yield from flatten(value, f"{name}.")
        else:
            yield name, value


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


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The sections of a file, and where in it each field stands."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"--config {path}: no such file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"--config {path}: is no UTF-8 text at byte {error.start}; save it as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"--config {path}: cannot be read: {error.strerror}") from None
    found = parse_yaml(text, str(path))
    if found.tree is None:
        return {}, {}
    if not isinstance(found.tree, dict):
        kind = "a list" if isinstance(found.tree, list) else "text"
        raise ConfigError(f"--config {path}: must hold sections such as 'model:', not {kind}")
    places = {name: f"{path}, line {line}" for name, line in found.lines.items()}
    tree: dict[str, Any] = {name: value for name, value in found.tree.items() if "." not in name}
    for name in (name for name in found.tree if "." in name):  # `train.run_name: one`, as on the command line
        section, _, field = name.partition(".")
        if isinstance(tree.get(section), dict) and field in tree[section]:
            raise ConfigError(f"{places[name]}: {name} stands a second time, beside the section {section}; leave one")
        _set(tree, name, found.tree[name])
    return tree, places


def _as_json(name: str, text: str) -> str:
    """A mapping that the command line gives in JSON or YAML."""
    works = f"; '{_MAPPINGS[name]}' works"
    try:
        value = parse_yaml(text, name, name).tree
    except ConfigError as error:
        raise ConfigError(f"{error}{works}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{name} = {without_passwords(text)} must be a JSON object{works}")
    return json.dumps(value)


def _set(tree: dict[str, Any], name: str, value: Any) -> None:
    *parents, leaf = name.split(".", 1)
    for parent in parents:
        if tree.get(parent) is None:
            tree[parent] = {}
        child = tree[parent]
        if not isinstance(child, dict):
            shown = without_passwords(repr(child))
            raise ConfigError(f"{parent} = {shown}: must be a section with fields, such as {name}")
        tree = child
    tree[leaf] = value
