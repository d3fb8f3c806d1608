"""YAML as a configuration needs it: every plain value as the text that it is, and the line of every field.

In: a text. Out: a tree of dictionaries, lists and texts, and line numbers by dotted name.

A value stays text until its field says what it is, as on the command line: so 1e-4 is a number and `no` a name where one is
wanted, and 1.10 keeps its zero. What lies in a free-form field has no field to say it and is read by YAML 1.2's core schema.
"""

import re
from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

import yaml

from reformer_dist.errors import ConfigError

FREE_FORM = ("tune.space",)
"""Fields in which values are what YAML says."""
_NULL = {"", "~", "null", "Null", "NULL"}
_BOOLEANS = {"true": True, "false": False}
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NO_NUMBER = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_KNOWN_TAG = "tag:yaml.org,2002:"
_TAB = "found character '\\t'"


class YamlText(NamedTuple):
    """What a YAML text says.

    Attributes:
        tree: mappings, lists, texts, None; numbers and booleans in free-form fields alone.
        lines: line, from 1, of every key by dotted name.
    """

    tree: Any
    lines: Mapping[str, int]


def parse_yaml(text: str, where: str, prefix: str = "") -> YamlText:
    """Read a YAML text, which may be JSON.

    Args:
        text: the text.
        where: what it is, for messages.
        prefix: dotted name of the field that the text is of.

    Raises:
        ConfigError: one line with the line number, for what is no YAML, a key that stands twice, a value that holds itself,
            and what only a program could mean (tags).
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        reading = _Reading(where)
        return YamlText(reading.value(node, prefix) if node else None, reading.lines)
    except ConfigError:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        hint = "; YAML takes spaces before a key, no tabs" if _TAB in (error.problem or "") else ""
        reason = ", ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError(f"{where}{line}: not valid YAML: {' '.join(reason.split())}{hint}") from None
    except (yaml.YAMLError, ValueError) as error:  # characters that YAML forbids
        raise ConfigError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ConfigError(f"{where}: lists and mappings in each other are too deep") from None


class _Reading:
    def __init__(self, where: str) -> None:
        self.where = where
        self.lines: dict[str, int] = {}
        self._open: list[yaml.Node] = []
        """The nodes that the one being read lies in."""

    def value(self, node: yaml.Node, name: str) -> Any:
        """What a node says; `name` is its dotted name."""
        if not node.tag.startswith(_KNOWN_TAG) or "python" in node.tag:
            raise self._mistake(node, f"the tag {node.tag} is not read; a plain value works")
        if node in self._open:
            raise self._mistake(node, f"{name} holds itself by an alias; values written out work")
        self._open.append(node)
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, name)
            if isinstance(node, yaml.SequenceNode):
                return [self.value(item, name) for item in node.value]
            return _scalar(node, is_typed=_is_free_form(name))
        finally:
            self._open.pop()

    def _mapping(self, node: yaml.MappingNode, name: str) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        found: dict[str, Any] = {}
        first: dict[Hashable, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise self._mistake(key_node, f"a key{_of(name)} must be a name, such as model")
            key = key_node.value
            if key == "<<" and key_node.style is None:
                for each in value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]:
                    more = self.value(each, name)
                    if not isinstance(more, dict):
                        raise self._mistake(each, "<< must name a mapping, such as *defaults")
                    merged = {**more, **merged}
                continue
            full = f"{name}.{key}" if name else key
            if key in first:
                raise self._mistake(
                    key_node, f"{full} stands a second time, after line {first[key]}; leave one of them"
                )
            first[key] = line
            self.lines[full] = line
            found[key] = self.value(value_node, full)
        return {**merged, **found}

    def _mistake(self, node: yaml.Node, message: str) -> ConfigError:
        return ConfigError(f"{self.where}, line {node.start_mark.line + 1}: {message}")


def _scalar(node: yaml.Node, *, is_typed: bool) -> Any:
    is_plain = isinstance(node, yaml.ScalarNode) and node.style is None
    text: str = node.value
    if not is_plain:
        return text
    if text in _NULL:
        return None
    if is_typed:
        if text.lower() in _BOOLEANS and text in {text.lower(), text.title(), text.upper()}:
            return _BOOLEANS[text.lower()]
        if _INTEGER.fullmatch(text):
            return int(text, 0 if text[1:2] in ("o", "x") else 10)
        if _FLOAT.fullmatch(text):
            return float(text)
        if _NO_NUMBER.fullmatch(text):
            return float(text.replace(".", ""))
    return text


def _is_free_form(name: str) -> bool:
    return any(name == field or name.startswith(f"{field}.") for field in FREE_FORM)


def _of(name: str) -> str:
    return f" of {name}" if name else ""
