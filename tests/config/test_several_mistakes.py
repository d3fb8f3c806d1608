"""All that is wrong with a configuration is told at once, a line each, in the order of its sections."""

from pathlib import Path
from typing import Any

import pytest

from reformer_dist.config import ModelConfig, load_config, parse_command_line
from reformer_dist.config.mistakes import WrongValues
from reformer_dist.errors import ConfigError


def problems(**fields: object) -> tuple[str, ...]:
    """What is said of a configuration with `data__field=VALUE` for data.field."""
    with pytest.raises(ConfigError) as refused:
        load_config(None, {name.replace("__", "."): value for name, value in fields.items()})
    return refused.value.problems


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (  # fields of several sections; a field that may be of two types, or has several values, is one line
            {"train__workers": 0, "model__num_hashes": "x", "data__sequence_len": 5, "data__weights": "-1,-2"},
            ["data.weights = -1", "unknown field data.sequence_len", "model.num_hashes = 'x'", "train.workers = 0"],
        ),
        (  # within a section
            {"data__test_fraction": 0.96, "data__tokenizer_file": "x", "data__field": "a,b", "data__weights": "1,2"},
            ["data.test_fraction = 0.96", "data.tokenizer_file = x", "data.field = a,b", "data.weights = 1.0,2.0"],
        ),
        (
            {"model__embed_dim": 33, "model__num_buckets": 3, "model__axial_shape": "2,2"},
            ["model.embed_dim = 33 is not", "model.num_buckets = 3", "model.axial_shape = (2, 2)"],
        ),
        (
            {"parallel__offload_optimizer": True, "parallel__zero_stage": 0, "parallel__head_shards": 2},
            ["parallel.offload_optimizer", "parallel.head_shards = 2"],
        ),
        (
            {
                "tune__space": {"model.num_hashes": [], "model.seed": {"int": [4, 1]}, "train.seed": 3},
                "tune__objectives": "loss,loss",
            },
            ["tune.space gives no values", "tune.space.model.seed: int = [4, 1]", "tune.space.train.seed = 3",
             "tune.objectives = loss,loss"],
        ),
        (  # between sections
            {"train__storage": "s3://KEY:hush@bucket/x", "data__sequence_length": 9999, "train__workers": 3,
             "parallel__sequence_shards": 2},
            ["train.storage = s3://KEY:...@bucket", "data.sequence_length = 9999", "train.workers = 3"],
        ),
        (
            {"model__layers": "full,lsh", "model__lsh_mode": "paper", "model__lsh_window": 9999, "train__workers": 3,
             "parallel__sequence_shards": 2, "parallel__attention": "buckets"},
            ["model.layers = full", "model.lsh_mode = paper", "model.lsh_window = 9999", "train.workers = 3"],
        ),
        (
            {"objective__masked_hidden": 0.95, "objective__masked_random": 0.1, "parallel__head_shards": 2},
            ["objective.masked_hidden = 0.95", "parallel.head_shards = 2"],
        ),
        (  # within one and between others
            {"tune__objectives": "loss,loss", "data__sequence_length": 9999, "train__batch_size": 0},
            ["train.batch_size = 0", "tune.objectives = loss,loss", "data.sequence_length = 9999"],
        ),
    ],
)  # fmt: skip
def test_every_mistake_is_a_line(fields: dict[str, Any], expected: list[str]) -> None:
    found = problems(**fields)
    assert len(found) == len(expected), found
    for line, start in zip(found, expected, strict=True):
        assert line.startswith(start)
        assert "\n" not in line


def test_what_follows_from_a_mistake_is_not_told_as_another() -> None:
    """Other shards would make other workers right; a section that is wrong is not compared with others."""
    (only,) = problems(parallel__sequence_shards=3, train__workers=4)
    assert only.startswith("parallel.sequence_shards = 3 does not divide model.num_heads = 4")
    (only,) = problems(model__embed_dim=33, data__sequence_length=9999)
    assert only.startswith("model.embed_dim = 33")
    (only,) = problems(train__workers="1,4", train__batch_size=4, parallel__sequence_shards=2,
                       parallel__attention="buckets", model__layers="full")  # fmt: skip
    assert only.startswith("model.layers = full")


@pytest.mark.parametrize("num_heads", [3, 4, 5])
def test_one_width_works_for_heads_and_axial_factors(num_heads: int) -> None:
    (only,) = problems(model__embed_dim=31, model__num_heads=num_heads)
    works = int(only.split("; ")[1].split()[0])
    assert ModelConfig(embed_dim=works, num_heads=num_heads).head_width * num_heads == works


def test_the_command_line_tells_all_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("model: {num_heads: 0}\ntrain: {stepps: 7}\n")
    options = ["--model.hashes", "4", "--data.sequence_length=0", "--bogus=1"]
    with pytest.raises(SystemExit) as ended:
        parse_command_line("", ["--config", str(path), *options])
    assert ended.value.code == 2
    lines = [line.split(": ", 1)[1] for line in capsys.readouterr().err.splitlines()]
    assert lines == [
        "unknown field model.hashes; did you mean model.num_hashes?",
        "unknown field bogus; --help lists the fields",
        "data.sequence_length = 0 should be greater than 0; 4096 works",
        f"{path}, line 1: model.num_heads = 0 should be greater than 0; 4 works",
        f"{path}, line 2: unknown field train.stepps; did you mean train.steps?",
    ]


def test_no_line_shows_a_password() -> None:
    with pytest.raises(WrongValues) as refused:
        load_config(
            None, {"data.tokenizer_file": "https://me:hush@host/tokenizer.json", "train.steps": "s3://K:hush@b"}
        )
    assert len(refused.value.problems) >= 2
    assert "hush" not in str(refused.value)
    assert "https://me:...@host/tokenizer.json" in str(refused.value)
