"""Which objective goes with which model and vocabulary: mistakes are one line, on the driver."""

from pathlib import Path

import pytest

from reformer_dist.config import Config, ObjectiveConfig, load_config
from reformer_dist.data.feeding.sequences import check_fields
from reformer_dist.errors import ConfigError
from reformer_dist.objectives.choice import OBJECTIVES, check_objective, make_objective
from reformer_dist.objectives.next_token import NextToken
from reformer_dist.planning.preflight import Preflight
from tests.corpora import prepare_here, random_documents, write_documents

LABELLED = {"text": {"tokenizer": "amino_acids"}, "labels": {"aligned_with": "text"}}


def config(storage: Path, **fields: object) -> Config:
    named = {name.replace("__", "."): value for name, value in fields.items()}
    return load_config(None, {"train.storage": str(storage), **named})


def test_the_names_are_those_of_the_objectives() -> None:
    for name in OBJECTIVES:
        assert make_objective(ObjectiveConfig(name=name)).name == name


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        (
            {"model__causal": False},
            "model.causal = False cannot be trained with objective.name = next_token;"
            " model.causal = True works, or objective.name = masked",
        ),
        (
            {"objective__name": "masked", "model__vocab_size": 257},
            "model.causal = True cannot be trained with objective.name = masked;"
            " model.causal = False works, or objective.name = next_token or copy",
        ),
        (
            {"objective__name": "masked", "model__causal": False, "model__vocab_size": 256},
            "model.vocab_size = 256 is less than data.tokenizer = bytes needs with objective.name = masked; 257 works",
        ),
        ({"model__vocab_size": 100}, "model.vocab_size = 100 is less than data.tokenizer = bytes needs; 256 works"),
        (
            {"objective__name": "labels", "data__fields": LABELLED, "model__vocab_size": 255},
            "model.vocab_size = 255 is less than data.fields.labels.tokenizer = bytes needs; 256 works",
        ),
        (
            {"objective__name": "labels"},
            "data.fields = text has no labels, which objective.name = labels reads;"
            ' {"text": {"tokenizer": "bytes"}, "labels": {"aligned_with": "text"}} works',
        ),
        ({"objective__name": "nonsense"}, f"objective.name = nonsense is none of {', '.join(OBJECTIVES)};"),
    ],
)
def test_what_cannot_mean_anything_is_one_line(tmp_path: Path, fields: dict[str, object], line: str) -> None:
    with pytest.raises(ConfigError) as found:
        Preflight(config(tmp_path, **fields)).before_ray()
    assert str(found.value).startswith(line)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"objective__name": "copy"},
        {"objective__name": "masked", "model__causal": False, "model__vocab_size": 257},
        {"model__lsh_mode": "chunked"},
    ],
)
def test_what_goes_together_is_taken(tmp_path: Path, fields: dict[str, object]) -> None:
    Preflight(config(tmp_path, **fields)).before_ray()


@pytest.mark.parametrize("causal", [True, False])
def test_labels_go_with_any_model(tmp_path: Path, causal: bool) -> None:
    (tmp_path / "proteins.jsonl").write_text('{"text": "MKV", "labels": "HHE"}\n')
    given = {"data__sources": str(tmp_path / "proteins.jsonl"), "data__fields": LABELLED, "objective__name": "labels"}
    preflight = Preflight(config(tmp_path, model__causal=causal, **given))
    preflight.before_ray()
    assert preflight.config.model.vocab_size == 256


def test_a_prepared_corpus_is_looked_at_too(tmp_path: Path) -> None:
    source = write_documents(tmp_path / "source", random_documents({f"{i}": 900 for i in range(9)}))
    corpus = prepare_here(source, tmp_path)
    masked = {"objective__name": "masked", "model__causal": False, "data__sequence_length": 256}
    Preflight(config(tmp_path, model__vocab_size=257, **masked)).with_corpus(corpus)
    with pytest.raises(ConfigError, match=r"needs with objective\.name = masked; 257 works"):
        Preflight(config(tmp_path, model__vocab_size=256, **masked)).with_corpus(corpus)
    Preflight(config(tmp_path, **masked)).with_corpus(corpus)


def test_a_field_that_the_corpus_lacks_is_named(tmp_path: Path) -> None:
    class Translation(NextToken):
        @property
        def fields(self) -> tuple[str, ...]:
            return ("text", "target")

    corpus = prepare_here(write_documents(tmp_path / "s", {f"{i}": b"abc" for i in range(50)}), tmp_path)
    settings = config(tmp_path).objective
    check_fields(NextToken(settings), corpus)
    with pytest.raises(ConfigError, match=rf"prepared corpus {corpus.folder} has no field target; its fields: text"):
        check_fields(Translation(settings), corpus)


def test_records_without_the_field_that_is_read_are_one_line(tmp_path: Path) -> None:
    pairs = {"source": {"tokenizer": "bytes"}, "target": {"tokenizer": "bytes"}}
    with pytest.raises(
        ConfigError, match=r"data\.fields = source, target has no text, which objective\.name = next_token"
    ):
        Preflight(config(tmp_path, data__fields=pairs)).before_ray()


def test_check_objective_needs_no_storage() -> None:
    check_objective(load_config())
