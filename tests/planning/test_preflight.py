"""Every kind of a user's mistake is found by the driver, several at once are told at once, and nothing is left behind."""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from reformer_dist import checkpoints
from reformer_dist.config import Config, load_config
from reformer_dist.config.mistakes import WrongValues
from reformer_dist.errors import ConfigError
from reformer_dist.planning import corpora, objectives, places, preflight, spaces, workers
from reformer_dist.planning.corpora import wasteful_vocabulary
from reformer_dist.planning.preflight import Preflight, mistakes_before_ray, mistakes_before_sweep, together
from tests.checkpoints.test_checkpoint import write
from tests.corpora import prepare_here, random_documents, write_documents


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_documents(tmp_path / "text", random_documents({f"{i}.txt": 500 for i in range(9)}))
    return tmp_path


def make_config(place: Path, **fields: object) -> Config:
    """A configuration that can be trained, with `data__field=VALUE` for data.field."""
    given = {"data.sources": str(place / "text"), "train.storage": str(place / "runs"), "data.sequence_length": 100}
    return load_config(None, {**given, **{name.replace("__", "."): value for name, value in fields.items()}})


def problems(action: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as refused:
        action()
    return refused.value.problems


ONE_MISTAKE: Mapping[str, tuple[dict[str, object], str]] = {
    "storage": ({"train__storage": "/proc/runs"}, "train.storage = /proc/runs cannot be written: .*; runs works"),
    "storage's scheme": ({"train__storage": "no://x"}, "train.storage = no://x cannot be written: "),
    "tracking": ({"tracking__uri": "http://127.0.0.1:9"}, "tracking.uri = http://127.0.0.1:9 does not answer"),
    "resume": ({"train__resume": "/nowhere"}, "train.resume = /nowhere: checkpoint /nowhere: no manifest.json"),
    "first weights": ({"train__weights_from": "/nowhere"}, "train.weights_from = /nowhere: .*no "),
    "first weights, no storage": (
        {"train__weights_from": "/nowhere", "train__storage": "no://x"},
        "train.storage = no://x cannot be written: ",
    ),
    "tokenizer": ({"data__tokenizer": "bpe", "data__tokenizer_file": "/no"}, "data.tokenizer_file = /no cannot be"),
    "prepared": ({"data__prepared": "/nowhere"}, ".*/nowhere"),
    "vocabulary": (
        {"data__tokenizer": "bpe", "model__vocab_size": 256},
        "model.vocab_size = 256 is less than data.tokenizer = bpe needs; 8192",
    ),
    "sources": ({"data__sources": "/nowhere"}, "data.sources = /nowhere: no such file"),
    "kind of sources": ({"data__tokenizer": "rgb", "model__vocab_size": 257}, "data.sources = .*: no images there"),
    "workers": ({"train__workers": 4096, "train__batch_size": 4096}, "train.workers = 4096 is more than 4 for each of"),
    "memory": (
        {"model__max_length": 1 << 34, "data__sequence_length": 1 << 34},
        r"data.sequence_length = 17179869184: a step of 1 workers takes at least .*; data.sequence_length = \d+ works",
    ),
    "GPU": ({"train__use_gpu": True}, "train.use_gpu = true, but this machine has no GPU; false works"),
}


@pytest.mark.parametrize("kind", ONE_MISTAKE)
def test_each_kind_of_mistake_is_one_line_before_ray_starts(
    place: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    fields, expected = ONE_MISTAKE[kind]
    (line,) = problems(Preflight(make_config(place, **fields)).before_ray)
    assert re.match(expected, line), line
    assert "\n" not in line
    assert [path.name for path in place.iterdir()] == ["text"], "nothing is left behind"


def test_what_is_right_is_planned_and_has_a_folder(place: Path) -> None:
    preparation = Preflight(make_config(place)).before_ray()
    assert preparation.num_files == 9
    assert list((place / "runs").iterdir()) == []


def test_the_lines_stand_in_the_order_of_the_checks(place: Path) -> None:
    (place / "file").touch()
    config = make_config(
        place,
        train__storage=str(place / "file"),
        train__resume="/nowhere",
        tracking__uri="http://127.0.0.1:9",
        data__sources=f"/nowhere/a,{place / 'text'},/nowhere/b",
        model__vocab_size=100,
        train__workers=4096,
        train__batch_size=4096,
    )
    told = [re.split(" [=i]", line)[0] for line in problems(Preflight(config).before_ray)]
    names = ["train.storage", "tracking.uri", "train.resume", "model.vocab_size", "data.sources", "data.sources"]
    assert told == [*names, "train.workers"]


def test_a_vocabulary_that_cannot_be_read_hides_no_source(place: Path) -> None:
    fields = {"data__tokenizer": "bpe", "data__tokenizer_file": "/no.json", "data__sources": "/nowhere"}
    told = problems(Preflight(make_config(place, **fields)).before_ray)
    assert [line.split(" =")[0] for line in told] == ["data.tokenizer_file", "data.sources"]


def test_a_prepared_corpus_tells_its_vocabulary_before_ray_starts(place: Path) -> None:
    folder = prepare_here(place / "text", place / "runs").folder
    small = make_config(place, data__prepared=folder, model__vocab_size=100)
    (line,) = problems(Preflight(small).before_ray)
    assert line.startswith("model.vocab_size = 100 is less than data.tokenizer = bytes needs; 256 works")
    assert Preflight(make_config(place, data__prepared=folder)).before_ray().folder == folder


def test_a_cluster_tells_cpus_and_gpus_together(place: Path) -> None:
    config = make_config(place, train__workers=64, train__batch_size=64, train__use_gpu=True)
    told = problems(lambda: Preflight(config).on_cluster({"CPU": 4.0, "GPU": 2.0}))
    assert told == (
        "train.workers = 64 need a GPU each, and the cluster has 2; 2 works",
        "train.workers = 64 is more than 4 for each of the cluster's 4 CPUs; 16 works",
    )
    Preflight(config).on_cluster({"CPU": 64.0, "GPU": 64.0})


def test_who_joins_a_cluster_is_not_held_against_this_machine(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere:6379")
    config = make_config(place, train__workers=4096, train__batch_size=4096)
    Preflight(config).before_ray()
    assert len(problems(Preflight(config).on_this_machine)) == 1


def test_corpus_and_checkpoint_are_told_together(place: Path, one_worker: None) -> None:
    config = make_config(place, train__run_name="a")
    corpus = prepare_here(place / "text", place / "runs")
    write(checkpoints.new_folder(config.train.storage, "a"), 5, config)
    other = make_config(place, train__run_name="a", model__num_hashes=2, model__vocab_size=200, train__batch_size=1000)
    told = problems(lambda: Preflight(other).with_corpus(corpus))
    assert [line.split()[0] for line in told[:2]] == ["model.vocab_size", "train.batch_size"]
    assert "is of another model (model.vocab_size = 200, was 256; model.num_hashes = 2, was 4)" in told[2]
    assert "was trained on another corpus" in told[3]
    assert "began otherwise, and its curve would change (train.batch_size = 1000, was 1)" in told[4]
    assert len(told) == 5
    anew = make_config(place, train__run_name="a", train__resume="none", train__batch_size=2)
    assert Preflight(anew).with_corpus(corpus).start is None


def test_a_sweep_tells_its_space_with_the_rest(place: Path) -> None:
    (place / "file").touch()
    space = {"model.num_hash": [1], "tracking.uri": ["x"], "optimizer.learning_rate": {"uniform": [0.1, 1]}}
    fields = {"train__storage": str(place / "file"), "data__sources": "/nowhere", "tune__space": space}
    told = problems(Preflight(make_config(place, **fields)).before_sweep)
    assert [re.split("[ :]", line)[0] for line in told] == [
        "unknown", "tune.space", "tune.space.optimizer.learning_rate", "train.storage", "data.sources"
    ]  # fmt: skip


def test_a_sweep_looks_at_each_trials_sources(place: Path) -> None:
    trials = [make_config(place, data__sources=name) for name in (str(place / "text"), "/no/a", "/no/b", "/no/a")]
    sweep = Preflight(make_config(place, tune__space={"data.sources": ["x"]}))
    sweep.before_sweep()
    told = problems(lambda: sweep.of_sources(trials))
    assert [line.split(":")[0] for line in told] == ["data.sources = /no/a", "data.sources = /no/b"]
    (only,) = sweep.of_sources(trials[:1] * 2)
    assert only.num_files == 9


def wrong_values(**fields: object) -> WrongValues:
    with pytest.raises(WrongValues) as refused:
        load_config(None, {name.replace("__", "."): value for name, value in fields.items()})
    return refused.value


def test_wrong_values_do_not_hide_what_the_right_ones_show(place: Path) -> None:
    """Values that do not go together are still looked at, each for itself; a field that is wrong is not."""
    fields = {"data__sources": "/nowhere", "train__storage": "/proc/runs", "model__vocab_size": 100}
    found = wrong_values(**fields, train__workers=3, train__batch_size=4)
    assert len(found.problems) == 1
    told = mistakes_before_ray(found.config, found.right)
    assert [line.split(" ")[0] for line in told] == ["train.storage", "model.vocab_size", "data.sources"]

    found = wrong_values(**fields, train__steps=0, model__num_heads=3)
    assert len(found.problems) == 2
    told = mistakes_before_ray(found.config, found.right)
    assert [line.split(" ")[0] for line in told] == ["train.storage", "data.sources"], "not of a model that is wrong"

    found = wrong_values(**{**fields, "data__sources": ()}, tune__space=7)
    told = mistakes_before_sweep(found.config, found.right)
    assert [line.split(" ")[0] for line in told] == ["train.storage"]


def test_what_is_in_place_of_a_wrong_value_is_not_looked_at(place: Path) -> None:
    found = wrong_values(data__tokenizer="bpes", data__sources=str(place), train__workers=-1, model__vocab_size=1)
    assert mistakes_before_ray(found.config, found.right) == ()
    assert Config.model_fields.keys() - found.right == {"data", "train"}


def test_a_password_is_not_shown_by_later_lines(place: Path) -> None:
    found = wrong_values(train__storage="s3://KEY:hush@bucket/x", data__sources="https://me:hush@host/x")
    assert len(found.problems) == 2
    assert mistakes_before_ray(found.config, found.right) == ()


def test_every_check_is_in_a_stage() -> None:
    rooms = (corpora, objectives, places, spaces, workers)
    checks = {
        check
        for room in rooms
        for check in vars(room).values()
        if getattr(check, "__module__", "") == room.__name__
        and list(getattr(check, "__annotations__", ()))[1:2] == ["known"]
    }
    stages = ("BEFORE_RAY", "ON_CLUSTER", "WITH_CORPUS", "BEFORE_SWEEP", "OF_SWEPT_DATA", "OF_TRIAL")
    assert {check for stage in stages for check in getattr(preflight, stage)} == checks


def test_problems_of_several_actions_are_each_told_once() -> None:
    def fail(*lines: str) -> None:
        raise ConfigError(*lines)

    told = problems(lambda: together([lambda: fail("a", "b"), lambda: None, lambda: fail("b", "c")]))
    assert told == ("a", "b", "c")
    assert together([lambda: 1, lambda: 2]) == [1, 2]


def test_an_error_of_several_lines_travels_between_processes() -> None:
    error = pickle.loads(pickle.dumps(ConfigError("a; 1 works", "b; 2 works")))
    assert error.problems == ("a; 1 works", "b; 2 works")
    assert str(error) == "a; 1 works; and b; 2 works"


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({"data__tokenizer": "amino_acids"}, 29),
        ({"data__tokenizer": "bpe", "data__bpe_vocab_size": 300}, 300),
        ({"objective__name": "masked", "model__causal": False}, 257),
        ({"data__tokenizer": "amino_acids", "model__vocab_size": 256}, 256),
        ({}, 256),
        ({"data__prepared": "/nowhere"}, 256),
    ],
)
def test_the_tokenizer_sets_the_models_vocabulary(place: Path, fields: dict[str, Any], size: int) -> None:
    assert Preflight(make_config(place, **fields)).config.model.vocab_size == size


def test_a_vocabulary_that_is_much_too_large_is_told(place: Path) -> None:
    wide = make_config(place, data__tokenizer="amino_acids", model__vocab_size=256)
    assert (
        wasteful_vocabulary(wide, {"text": 29}) == "model.vocab_size = 256, of which 29 are needed; left out it is 29"
    )
    assert not wasteful_vocabulary(make_config(place, model__vocab_size=512), {"text": 256})
