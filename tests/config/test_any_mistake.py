"""Whatever is done to a configuration file, it is read or refused by lines; never a traceback, never more than a screen.

Files are made from the schema: whole configurations in which fields are dropped, doubled, retyped, nested or misspelt.
"""

from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from reformer_dist.config import Config, flatten, load_config, parse_command_line
from reformer_dist.config.mistakes import field_names
from reformer_dist.errors import ConfigError

DEFAULTS = dict(flatten(Config().model_dump(mode="json")))
SECTIONS = [*Config.model_fields]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 5000),
    st.floats(allow_nan=True, allow_infinity=True, width=32),
    st.sampled_from(
        ["", "x", "1e-4", "1,2", ",", "local,lsh", "None", "no", "~", "s3://user:hush@host/x", "ä", "0x10"]
    ),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["a", "column", "choice", "model.seed"]), inner)
    ),
    max_leaves=5,
)
NAMES = st.one_of(
    st.sampled_from(field_names()),
    st.sampled_from([*SECTIONS, "modle", "model.embed_dims", "model.a.b.c", ".", "model.", ".model", "", "1"]),
)
TREES = st.fixed_dictionaries(
    {"kept": st.lists(st.sampled_from([*DEFAULTS]), max_size=4), "set": st.dictionaries(NAMES, VALUES, max_size=3)}
)


def text_of(tree: dict[str, Any], is_dotted: bool) -> str:
    """The file that has some defaults and some other values."""
    fields = {name: DEFAULTS[name] for name in tree["kept"]} | tree["set"]
    if is_dotted:
        return yaml.safe_dump(fields)
    nested: dict[str, Any] = {}
    for name, value in fields.items():
        section, _, field = name.partition(".")
        if not field:
            nested[section] = value
        elif isinstance(nested.setdefault(section, {}), dict):
            nested[section][field] = value
    return yaml.safe_dump(nested)


class _Read(Exception):
    """A configuration that was read."""


def is_answered(lines: tuple[str, ...]) -> None:
    assert lines
    for line in lines:
        assert line
        assert "\n" not in line
        assert "hush" not in line
        assert "Traceback" not in line


@settings(max_examples=700, deadline=None)
@given(tree=TREES, is_dotted=st.booleans(), cut=st.integers(0, 60), twice=st.booleans())
def test_a_file_is_read_or_refused(
    tmp_path_factory: Any, tree: dict[str, Any], is_dotted: bool, cut: int, twice: bool
) -> None:
    text = text_of(tree, is_dotted)
    if twice:
        text += text
    if cut > 30:
        text = text[: len(text) * (cut - 30) // 30]  # as after a full disk
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(text, encoding="utf-8")
    try:
        assert isinstance(load_config(path), Config)
    except ConfigError as error:
        is_answered(error.problems)


@settings(max_examples=300, deadline=None)
@given(name=NAMES, value=SCALARS | st.sampled_from(['{"a": 1}', "{a: [1", "[1]", '{"model.seed": [1, 2]}']))
def test_an_option_is_read_or_refused(name: str, value: object) -> None:
    with pytest.raises((SystemExit, _Read)) as ended:
        raise _Read(parse_command_line("", [f"--{name}={value}"]))
    assert isinstance(ended.value, _Read) or ended.value.code == 2
