"""Whether a machine has room for the workers' memory."""

from types import SimpleNamespace

import psutil
import pytest

from reformer_dist.config import load_config
from reformer_dist.errors import ConfigError
from reformer_dist.planning import workers
from reformer_dist.planning.known import Known

LONG = {"data.sequence_length": 1 << 20, "model.max_length": 1 << 20}


def refusal(monkeypatch: pytest.MonkeyPatch, gib: float, **fields: object) -> str:
    """What is told on a machine of so many GiB, nothing if it is enough."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=int(gib * 2**30)))
    given = {name.replace("__", "."): value for name, value in fields.items()}
    try:
        workers.memory(load_config(None, {**LONG, **given}), Known())
    except ConfigError as error:
        return str(error)
    return ""


def test_the_length_that_works_does(monkeypatch: pytest.MonkeyPatch) -> None:
    told = refusal(monkeypatch, 4)
    assert told.startswith("data.sequence_length = 1048576: a step of 1 workers takes at least ")
    works = int(told.partition("; data.sequence_length = ")[2].split()[0])
    assert refusal(monkeypatch, 4, data__sequence_length=works) == ""
    assert refusal(monkeypatch, 4, data__sequence_length=2 * works) != ""


def test_shards_of_a_sequence_share_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers with half a sequence each take about as much together as one, two with a whole one each twice that."""
    at_least = [
        float(refusal(monkeypatch, 1, **fields).partition("at least ")[2].split()[0])
        for fields in (
            {},
            {
                "train__workers": 2,
                "parallel__sequence_shards": 2,
                "parallel__attention": "buckets",
                "model__layers": "lsh",
            },
            {"train__workers": 2, "train__batch_size": 2},
        )
    ]
    assert at_least[1] == pytest.approx(at_least[0], rel=0.3)
    assert at_least[2] == pytest.approx(2 * at_least[0], rel=0.05)


def test_what_is_not_counted_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal(monkeypatch, 1, train__dtype="bfloat16") == ""
    assert refusal(monkeypatch, 1, model__attention_kernel="plain") == ""


def test_a_long_source_is_told_and_halved_too(monkeypatch: pytest.MonkeyPatch) -> None:
    model = {"model__encoder_layers": "local,lsh", "model__max_source_length": 1 << 20, "objective__name": "pairs"}
    lengths = {"data__sequence_length": 4096, "data__source_length": 1 << 20}
    told = refusal(monkeypatch, 4, **model, **lengths)
    assert told.startswith("data.sequence_length = 4096 with data.source_length = 1048576: a step of 1 workers takes")
    words = told.partition("; ")[2].split()
    halved = {"data__sequence_length": int(words[2]), "data__source_length": int(words[6])}
    assert halved["data__source_length"] == 256 * halved["data__sequence_length"]
    assert refusal(monkeypatch, 4, **model, **halved) == ""
    doubled = {name: 2 * length for name, length in halved.items()}
    assert refusal(monkeypatch, 4, **model, **doubled) != ""


def test_a_model_that_is_too_large_itself_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "; a smaller model works" in refusal(monkeypatch, 0.001)


def test_what_is_to_be_chosen_must_be_counted() -> None:
    with pytest.raises(
        ConfigError, match=r"^model.keep = auto: train.dtype = bfloat16 is not .*, or one of nothing, streams"
    ):
        workers.keep(load_config(None, {"model.keep": "auto", "train.dtype": "bfloat16"}), Known())
    workers.keep(load_config(None, {"model.keep": "auto"}), Known())
    workers.keep(load_config(None, {"train.dtype": "bfloat16"}), Known())
