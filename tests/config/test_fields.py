"""data.fields: said in YAML, on the command line or in a dictionary, and one line for each mistake."""

import json
from pathlib import Path

import pytest

from reformer_dist.config import flatten, load_config, parse_command_line
from reformer_dist.errors import ConfigError

FIELDS = {"source": {"column": "en", "tokenizer": "bpe"}, "target": {"column": "de"}}


def test_yaml_the_command_line_and_a_dictionary_say_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("data:\n  fields: {source: {column: en, tokenizer: bpe}, target: {column: de}}\n")
    config = load_config(path)
    assert list(config.data.fields) == ["source", "target"]
    assert config == parse_command_line("", ["--data.fields", json.dumps(FIELDS)])
    assert config == load_config(None, {"data.fields": FIELDS}) == load_config(None, {"data": {"fields": FIELDS}})
    assert load_config(None, dict(flatten(config.model_dump()))) == config
    assert hash(config.data) == hash(load_config(path).data) != hash(load_config().data)


def test_what_is_given_later_replaces_all_fields(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("data:\n  fields: {text: {column: body}}\n")
    assert list(load_config(path, {"data.fields": FIELDS}).data.fields) == ["source", "target"]


def test_text_alone_is_one_field() -> None:
    data = load_config(None, {"data.field": "body", "data.tokenizer": "amino_acids"}).data
    assert {name: (field.column, field.tokenizer) for name, field in data.record_fields.items()} == {
        "text": (("body",), "amino_acids")
    }
    assert load_config().data.column_of("text", 0) is None
    assert load_config(None, {"data.fields": {"text": {}}}).data.column_of("text", 0) == "text"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"a": {"tokeniser": "bpe"}}, "unknown field data.fields.a.tokeniser; did you mean data.fields.a.tokenizer?"),
        ({"a": {"tokenizer": "bpx"}}, r"data.fields.a.tokenizer = 'bpx' should be .*; 'bytes' works"),
        ({"a": 3}, r"data.fields.a = 3 should be a valid dictionary .*; {} works"),
        (3, "data.fields = 3 should be a valid dictionary"),
        ({"a": {"bpe_vocab_size": 3}}, r"data.fields.a.bpe_vocab_size = 3 should be .*; 8192 works"),
        ({"A b": {}}, "data.fields has 'A b'; a name of small letters"),
        ({"a": {"column": "x,y"}}, "data.fields.a.column = x,y has 2 entries for 1 data.sources"),
        ({"a": {"tokenizer_file": "x"}}, "data.fields.a.tokenizer_file = x goes with data.fields.a.tokenizer = bpe"),
        ({"a": {}, "b": {"aligned_with": "c"}}, "data.fields.b.aligned_with = c must name a field .*; a works"),
        ({"a": {}, "b": {"aligned_with": "b"}}, "data.fields.b.aligned_with = b must name a field .*; a works"),
        ({"a": {}, "b": {"vocabulary_of": "c"}}, "data.fields.b.vocabulary_of = c must name a field .*; a works"),
        ({"a": {}, "b": {"vocabulary_of": "b"}}, "data.fields.b.vocabulary_of = b must name a field .*; a works"),
        (
            {"a": {}, "b": {"vocabulary_of": "a"}, "c": {"vocabulary_of": "b"}},
            "data.fields.c.vocabulary_of = b must name a field with a tokenizer of its own; a works",
        ),
        (
            {"a": {}, "b": {"vocabulary_of": "a", "tokenizer": "bpe"}},
            "data.fields.b.tokenizer = bpe does not go with data.fields.b.vocabulary_of = a; leave one of them out",
        ),
        (
            {"a": {"tokenizer": "bpe"}, "b": {"vocabulary_of": "a", "bpe_vocab_size": 300}},
            "data.fields.b.bpe_vocab_size = 300 does not go with data.fields.b.vocabulary_of = a",
        ),
        (
            {"a": {"tokenizer_file": "x"}, "b": {"vocabulary_of": "a"}},
            "^data.fields.a.tokenizer_file = x goes with data.fields.a.tokenizer = bpe, not bytes$",
        ),
        ({"a": {"tokenizer": "bpe", "tokenizer_file": "s3://u:secret@h/x"}}, "s3://u:...@h holds a password"),
    ],
)
def test_a_mistake_is_one_line(fields: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(None, {"data.fields": fields})
    assert "\n" not in str(caught.value)


def test_fields_do_not_go_with_the_short_form() -> None:
    with pytest.raises(ConfigError, match=r"data\.fields does not go with data\.field, data\.tokenizer"):
        load_config(None, {"data.fields": FIELDS, "data.tokenizer": "bpe"})


@pytest.mark.parametrize("option", ["--data.fields", "--tune.space"])
def test_what_is_no_json_is_one_line(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_command_line("", [option, "source"])
    error = capsys.readouterr().err
    assert f"{option.removeprefix('--')} = source must be a JSON object; '{{" in error
    assert error.count("\n") == 1


def test_a_shared_vocabulary_is_described_by_its_field() -> None:
    fields = {"source": {"tokenizer": "bpe", "bpe_vocab_size": 300}, "text": {"vocabulary_of": "source"}}
    config = load_config(None, {"data.fields": fields})
    text = config.data.record_fields["text"]
    assert (text.tokenizer, text.bpe_vocab_size) == ("bpe", 300)
    assert config.data.setting_of("text", "tokenizer") == "data.fields.source.tokenizer"
    assert config.data.setting_of("text", "column") == "data.fields.text.column"
    assert load_config(None, dict(flatten(config.model_dump()))) == config, "as a checkpoint writes it down"
