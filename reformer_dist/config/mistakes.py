"""What is wrong with a configuration, in readable lines, and which parts of it are right all the same.

In: what pydantic says of the values. Out: `WrongValues`.
"""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from reformer_dist.config.configuration import Config
from reformer_dist.config.sections.data import FieldConfig
from reformer_dist.config.sections.section import Section
from reformer_dist.errors import ConfigError

_ANY_PASSWORD = re.compile(r"(\w+://[^/@:\s]*):[^/@\s]+(@)")
"""A password in a URL anywhere in a line, which shows the value that was given."""
_NUMBER = re.compile(r"[-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?")
_NAMED = re.compile(r"(?:unknown field )?([\w-]+(?:\.[\w-]+)*)")
"""The name that a line about a field begins with."""
_ENTRIES: dict[str, type[Section]] = {"data.fields": FieldConfig}
"""Fields that are dictionaries of sections, and which."""


class WrongValues(ConfigError):
    """A configuration that can be read, with values that are wrong.

    Attributes:
        config: the configuration with defaults in place of what is wrong.
        right: names of its sections and, dotted, of its fields that are as they were given, and right for themselves.
            Those with a password are not among them.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__(*problems)
        self.config, self.right = Config(), frozenset[str]()


def without_passwords(line: str) -> str:
    """A line that shows a value as it was given, but for passwords of URLs in it."""
    return _ANY_PASSWORD.sub(r"\1:...\2", line)


def wrong_values(error: ValidationError, tree: Mapping[str, Any], places: Mapping[str, str]) -> WrongValues:
    """A line for each mistake: of pydantic's errors, then between those sections that are right.

    Pydantic compares no sections while one of them is wrong.

    Args:
        error: what pydantic raised.
        tree: the values by section, of which it was raised.
        places: where the user gave a field, by dotted name, such as "demo.yaml, line 7"; empty if not in a file.
    """
    errors = error.errors(include_url=False)
    wrong = {".".join(map(str, mistake["loc"][:2])) for mistake in errors if mistake["loc"]}
    config, right = _right_parts(tree, wrong)
    problems = [line for mistake in _by_field(errors) for line in _explain(mistake)]
    if wrong:
        problems += config.problems_between(right)
    hidden = {field for field, _ in config.passwords(Config.model_fields)}  # no later line may show them
    found = WrongValues(*(_placed(without_passwords(problem), places) for problem in problems))
    found.config, found.right = config, right - hidden - {field.partition(".")[0] for field in hidden}
    return found


def _right_parts(tree: Mapping[str, Any], wrong: set[str]) -> tuple[Config, frozenset[str]]:
    """See `WrongValues`; `wrong` has names of sections and, dotted, of fields."""
    sections: dict[str, Any] = {}
    right: set[str] = set()
    for name, info in Config.model_fields.items():
        if name in wrong:
            continue
        kind, given = type(info.default), tree.get(name, {})
        mistakes = {full.partition(".")[2] for full in wrong if full.startswith(f"{name}.")}
        if mistakes:
            given = {field: value for field, value in given.items() if field not in mistakes}
        try:
            sections[name] = kind.model_validate(given)
        except ValidationError:  # what is right does not go with the defaults of what is wrong
            continue
        right.update(f"{name}.{field}" for field in kind.model_fields if field not in mistakes)
        if not mistakes:
            right.add(name)
    return Config.model_construct(None, **sections), frozenset(right)


def field_names() -> list[str]:
    """Dotted names of all fields."""
    return [
        f"{section}.{field}"
        for section, info in Config.model_fields.items()
        for field in info.default.__class__.model_fields
    ]


def unknown_field(name: str, known: Sequence[str] = ()) -> str:
    """A line about a name that is none of those known, by default the configuration's fields, with the nearest that is."""
    names = known or [*([] if "." in name else Config.model_fields), *field_names()]
    near = [full for full in names if full.rpartition(".")[2] == name]  # a field without its section
    near += [full for full in difflib.get_close_matches(name, names, n=1, cutoff=0.5) if full != name]
    hint = f"did you mean {near[0]}?" if near else "--help lists the fields"
    return f"unknown field {name}; {hint}"


def _placed(problem: str, places: Mapping[str, str]) -> str:
    """A line with the place of the field that it begins with, or of what that field stands in."""
    named = _NAMED.match(problem)
    name = named[1] if named else ""
    while name and name not in places:
        name = name.rpartition(".")[0]
    place = places.get(name)
    return f"{place}: {problem}" if place else problem


def _by_field(errors: Sequence[ErrorDetails]) -> Iterable[ErrorDetails]:
    """The first error of each field, which may have one for each type that it could be and for each of its values."""
    first: dict[tuple[int | str, ...], ErrorDetails] = {}
    for mistake in errors:
        first.setdefault(mistake["loc"][: len(_parents(mistake)) + 1], mistake)
    return first.values()


def _explain(mistake: ErrorDetails) -> Sequence[str]:
    """A line for one of pydantic's errors; as many as a section's own comparison of its fields found."""
    parents = _parents(mistake)
    names = [str(part) for part in mistake["loc"][: len(parents) + 1]]
    name = ".".join(names)
    entry = _ENTRIES.get(".".join(parents[:2]))
    if mistake["type"] == "extra_forbidden":
        return [unknown_field(name, [".".join([*parents, field]) for field in entry.model_fields] if entry else ())]
    if mistake["type"] == "value_error":
        found = mistake["ctx"]["error"]
        return found.problems if isinstance(found, ConfigError) else [str(found)]
    if names == [*parents] and not entry:
        field, default = next(iter(Config.model_fields[name].default))
        return [
            f"{name} = {_shown(mistake['input'])} must be a section with fields, such as {name}.{field} = {default}"
        ]
    reason = mistake["msg"].removeprefix("Input ")
    section = entry() if entry else Config.model_fields[names[0]].default
    default = getattr(section, names[-1], None) if len(names) > len(parents) else {} if entry else None
    example = f"; {default!r} works" if default is not None else ""
    return [f"{name} = {_shown(mistake['input'])} {reason}{example}"]


def _shown(value: Any) -> str:
    """A value as it was given; a number without quotes, though it came as text."""
    return value if isinstance(value, str) and _NUMBER.fullmatch(value) else repr(value)


def _parents(mistake: ErrorDetails) -> list[str]:
    """Where the field of an error stands: its section, or the entry of a field that is a dictionary of sections."""
    names = [str(part) for part in mistake["loc"]]
    is_entry = len(names) > 2 and ".".join(names[:2]) in _ENTRIES
    return names[:3] if is_entry else names[:1]
