"""YAML files as people write them: what a value is, what stands twice, and one line with its number for every mistake."""

from pathlib import Path
from typing import Any

import pytest

from reformer_dist.config import Config, load_config, parse_command_line
from reformer_dist.config.yaml_text import parse_yaml
from reformer_dist.errors import ConfigError


def load(tmp_path: Path, text: str | bytes, overrides: dict[str, Any] | None = None) -> Config:
    path = tmp_path / "run.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_config(path, overrides)


def refusal(tmp_path: Path, text: str | bytes, overrides: dict[str, Any] | None = None) -> list[str]:
    """The lines that a file is refused with, without the folder."""
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, text, overrides)
    lines = [problem.replace(f"{tmp_path}/", "") for problem in refused.value.problems]
    assert not any("\n" in line for line in lines)
    return lines


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("optimizer: {learning_rate: 1e-4}", "optimizer.learning_rate", 1e-4),
        ("optimizer: {learning_rate: 1E-4}", "optimizer.learning_rate", 1e-4),
        ("optimizer: {learning_rate: .5}", "optimizer.learning_rate", 0.5),
        ("train: {steps: 1e4}", "train.steps", 10_000),
        ("train: {steps: 010}", "train.steps", 10),
        ("train: {run_name: 1.10}", "train.run_name", "1.10"),
        ("train: {run_name: 007}", "train.run_name", "007"),
        ("train: {run_name: 2026-11-27}", "train.run_name", "2026-11-27"),
        ("train: {run_name: no}", "train.run_name", "no"),
        ("data: {sources: 12:30}", "data.sources", ("12:30",)),
        ("data: {field: 0}", "data.field", ("0",)),
        ("data: {field: [en, de], sources: [a, b]}", "data.field", ("en", "de")),
        ("model: {reversible: no}", "model.reversible", False),
        ("model: {reversible: off}", "model.reversible", False),
        ("model: {num_buckets: [16, 32]}", "model.num_buckets", (16, 32)),
        ("model: {num_buckets: null}", "model.num_buckets", None),
        ("model: {num_buckets: }", "model.num_buckets", None),
        ("model: {layers: [local, lsh]}", "model.layers", ("local", "lsh")),
        ("train.run_name: dotted", "train.run_name", "dotted"),
        ("train: {steps: 7}\ntrain.run_name: dotted", "train.run_name", "dotted"),
        ("train.run_name: dotted\ntrain:", "train.run_name", "dotted"),
        ("optimizer:\n# all defaults\ntrain:\n  run_name: one", "train.run_name", "one"),
        ("model: &m {seed: 3}\ntrain: {<<: *m, run_name: one}", "train.seed", 3),
        ("\ufefftrain: {run_name: marked}", "train.run_name", "marked"),
        ("", "train.run_name", "reformer"),
        ("# nothing\n", "train.run_name", "reformer"),
        ("{}", "train.run_name", "reformer"),
    ],
)
def test_a_value_is_what_its_field_takes(tmp_path: Path, text: str, field: str, value: object) -> None:
    section, _, name = field.partition(".")
    found = getattr(getattr(load(tmp_path, text), section), name)
    assert found == value
    assert type(found) is type(value)


def test_a_sweeps_values_are_what_yaml_says(tmp_path: Path) -> None:
    space = load(
        tmp_path,
        "tune:\n  space:\n"
        "    optimizer.learning_rate: {loguniform: [1e-4, 1e-2], points: 2}\n"
        "    model.num_hashes: [1, 0x2, +4]\n"
        "    model.reversible: [true, False]\n"
        "    train.run_name: ['1', no, 1.5e3]\n",
    ).tune.space
    assert space == {
        "optimizer.learning_rate": {"loguniform": [1e-4, 1e-2], "points": 2},
        "model.num_hashes": [1, 2, 4],
        "model.reversible": [True, False],
        "train.run_name": ["1", "no", 1500.0],
    }
    assert isinstance(space["model.num_hashes"][0], int)


def test_a_dotted_sweep_is_the_same(tmp_path: Path) -> None:
    assert load(tmp_path, "tune.space: {model.num_hashes: [1, 2]}").tune.space == {"model.num_hashes": [1, 2]}


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("data:\n  field: a\ntrain:\n  steps: 3\ndata:\n  field: b\n", 5, "data stands a second time, after line 1;"),
        ("data:\n  field: a\n  field: b\n", 3, "data.field stands a second time, after line 2; leave one of them"),
        ("tune: {space: {model.seed: [1],\n model.seed: [2]}}", 2, "tune.space.model.seed stands a second time"),
        ("train: {steps: 3}\ntrain.steps: 4", 2, "train.steps stands a second time, beside the section train;"),
        ("model:\n\tembed_dim: 3\n", 2, "not valid YAML: while scanning for the next token, found character '\\t'"),
        ("model: {embed_dim: 3", 1, "not valid YAML: while parsing a flow mapping, expected ',' or '}', but got"),
        ("model: {a: 1}\n---\nmodel: {}", 2, "not valid YAML: expected a single document in the stream"),
        ("model: !!python/object:os.system {}", 1, "the tag tag:yaml.org,2002:python/object:os.system is not read;"),
        ("model: &m {embed_dim: *m}", 1, "model.embed_dim holds itself by an alias; values written out work"),
        ("model: {? [a] : 3}", 1, "a key of model must be a name, such as model"),
        ("1: 2", 1, "unknown field 1; --help lists the fields"),
        ("true: 2", 1, "unknown field true; "),
        ("num_heads: 2", 1, "unknown field num_heads; did you mean model.num_heads?"),
        ("\n\nmodel:\n  embed_dims: 2", 4, "unknown field model.embed_dims; did you mean model.embed_dim?"),
        ("modle: {embed_dim: 2}", 1, "unknown field modle; did you mean model?"),
        ("model: 5", 1, "model = 5 must be a section with fields, such as model.vocab_size = 256"),
        ("model: [1]", 1, "model = ['1'] must be a section with fields, such as model.vocab_size = 256"),
        ("model:\n  num_heads: 3\n  embed_dim: 32", 3, "model.embed_dim = 32 is not divisible by model.num_heads = 3;"),
        ("model: {embed_dim: {a: 1}}", 1, "model.embed_dim = {'a': '1'} should be a valid integer; 256 works"),
        (
            "tune:\n  space:\n    model.num_hashes: 4\n",
            3,
            "tune.space.model.num_hashes = 4 must be a list of values or",
        ),
    ],
)
def test_a_mistake_is_one_line_with_its_place(tmp_path: Path, text: str, line: int, said: str) -> None:
    (found,) = refusal(tmp_path, text)
    assert found.startswith(f"run.yaml, line {line}: {said}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"data: {sources: a}\ntrain: {run_name: caf\xe9}", "is no UTF-8 text at byte 40; save it as UTF-8"),
        ("model: {}".encode("utf-16"), "is no UTF-8 text at byte 0; save it as UTF-8"),
        (b"[" * 3000, "lists and mappings in each other are too deep"),
        (b"just words", "must hold sections such as 'model:', not text"),
        (b"a: \x01", "not valid YAML: unacceptable character #x0001"),
    ],
)
def test_what_is_no_file_of_fields_is_one_line(tmp_path: Path, text: bytes, said: str) -> None:
    (found,) = refusal(tmp_path, text)
    assert found.removeprefix("--config ").startswith(f"run.yaml: {said}")


def test_every_mistake_has_its_place(tmp_path: Path) -> None:
    assert [line.split(" =")[0] for line in refusal(tmp_path, "train: {steps: [1]}\nmodel:\n  num_heads: x\n")] == [
        "run.yaml, line 3: model.num_heads",
        "run.yaml, line 1: train.steps",
    ]


def test_the_place_is_of_what_was_given_last(tmp_path: Path) -> None:
    (line,) = refusal(tmp_path, "model: {num_heads: 2}", {"model.num_heads": 0})
    assert line.startswith("model.num_heads = 0")


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--tune.space", "{model.num_hashes: [1, 2]}", None),
        ("--tune.space", '{"model.num_hashes": [1, 2]}', None),
        ("--tune.space", '{"model.num_hashes": [1, 2}', "expected ',' or ']', but got '}'; '{"),
        ("--tune.space", "[1, 2]", "tune.space = [1, 2] must be a JSON object; '{"),
        ("--tune.space", "", "tune.space =  must be a JSON object; '{"),
        ("--data.fields", "{text: {column: body}}", None),
        ("--data.fields", "{text: {column: a, column: b}}", "data.fields.text.column stands a second time"),
    ],
)
def test_mappings_on_the_command_line(
    option: str, value: str, said: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    if said is None:
        config = parse_command_line("", [option, value])
        assert config.tune.space == {"model.num_hashes": [1, 2]} or list(config.data.fields) == ["text"]
        return
    with pytest.raises(SystemExit) as ended:
        parse_command_line("", [option, value])
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert said in error
    assert error.count("\n") == 1


def test_lines_of_a_field_that_was_merged() -> None:
    found = parse_yaml("a: &a\n  b: 1\nc:\n  <<: [*a]\n  d: 2\n", "x")
    assert found.tree == {"a": {"b": "1"}, "c": {"b": "1", "d": "2"}}
    assert found.lines == {"a": 1, "a.b": 2, "c": 3, "c.b": 2, "c.d": 5}
