"""Sweeps without training: what a space means, what is left out before a worker is taken, and going on from the journal."""

import json
import runpy
from dataclasses import replace
from pathlib import Path

import pytest

from reformer_dist.config import Config, load_config
from reformer_dist.config.space import combinations, parse_space
from reformer_dist.errors import ConfigError, JobFailed
from reformer_dist.planning import spaces
from reformer_dist.planning.known import Known
from reformer_dist.planning.preflight import Preflight
from reformer_dist.reports import sweep as pictures
from reformer_dist.reports.sweep import front
from reformer_dist.tracking.records import Point, RunRecord
from reformer_dist.tracking.trials import Sweep, Trial, ranked, read_journal, write_journal
from reformer_dist.training.failures import keep, lost_process
from reformer_dist.tuning.following import Following, Job
from reformer_dist.tuning.maker import Maker
from reformer_dist.tuning.runner import room
from reformer_dist.tuning.search import Search, comparable, importance
from reformer_dist.tuning.suggestion import suggest


def config(storage: Path, space: object, **fields: object) -> Config:
    return load_config(None, {"tune.space": space, "train.storage": str(storage), **fields})


def search_of(asked: Config, earlier: tuple[Trial, ...] = ()) -> Search:
    return Search(
        asked.tune, Maker(asked, "s-1", [lambda trial: Preflight(trial).of_trial()]), earlier, lambda line: None
    )


def finished(trial: Trial, bits: float) -> Trial:
    metrics = {"validation/bits_per_token": bits, "train/tokens_per_second": 10.0 * bits, "memory/worker_0_mib": 9.0}
    return replace(trial, status="finished", metrics=metrics)


def test_a_grid_is_every_combination_and_the_impossible_are_left_out(tmp_path: Path) -> None:
    asked = config(tmp_path, {"model.num_hashes": [1, 2], "parallel.sequence_shards": [1, 3]})
    search = search_of(asked)
    assert [dict(trial.values) for trial in search.planned] == [
        {"model.num_hashes": n, "parallel.sequence_shards": 1} for n in (1, 2)
    ]
    problems = [trial.problem for trial in search.trials.values() if trial.status == "impossible"]
    assert len(problems) == 2
    assert all("parallel.sequence_shards = 3" in problem for problem in problems)


def test_conditions_leave_out_what_does_not_matter() -> None:
    space = parse_space(
        {
            "model.layers": ["local,lsh", "local,full"],
            "model.lsh_window": {"choice": [16, 32], "when": {"model.layers": "local,lsh"}},
            "optimizer.learning_rate": {"loguniform": [0.001, 0.1], "points": 3},
        }
    )
    every = list(combinations(space))
    assert len(every) == 2 * 3 + 3
    assert {values.get("model.lsh_window") for values in every if values["model.layers"] == "local,full"} == {None}
    assert [v["optimizer.learning_rate"] for v in every[:3]] == pytest.approx([0.001, 0.01, 0.1])


@pytest.mark.parametrize("searcher", ["random", "optuna"])
def test_draws_stay_in_the_space_and_do_not_repeat(tmp_path: Path, searcher: str) -> None:
    space = {"model.num_hashes": {"int": [1, 3]}, "optimizer.learning_rate": [0.001, 0.002]}
    search = search_of(config(tmp_path, space, **{"tune.searcher": searcher, "tune.trials": 50}))
    seen = []
    while (trial := search.propose()) is not None:
        seen.append(tuple(trial.values.values()))
        search.tell(finished(trial, float(trial.values["model.num_hashes"])))
    assert sorted(seen) == [(n, rate) for n in (1, 2, 3) for rate in (0.001, 0.002)]


def test_several_objectives_are_told(tmp_path: Path) -> None:
    fields = {"tune.searcher": "optuna", "tune.trials": 8, "tune.objectives": "loss,speed,memory"}
    search = search_of(config(tmp_path, {"optimizer.learning_rate": {"loguniform": [0.001, 0.1]}}, **fields))
    for _ in range(8):
        trial = search.propose()
        assert trial is not None
        search.tell(finished(trial, float(trial.values["optimizer.learning_rate"])))
    assert search.propose() is None


def test_a_journal_repeats_no_trial_that_has_ended(tmp_path: Path) -> None:
    asked = config(tmp_path, {"model.num_hashes": [1, 2, 4]})
    search = search_of(asked)
    first = search.propose()
    assert first is not None
    search.tell(finished(first, 3.0))
    write_journal(str(tmp_path / "s"), asked, "run", search.trials.values())
    run_id, earlier = read_journal(str(tmp_path / "s"), asked)
    assert run_id == "run"
    again = search_of(asked, tuple(earlier))
    assert [trial.values["model.num_hashes"] for trial in again.planned] == [2, 4]
    assert again.trials[0] == search.trials[0]
    with pytest.raises(ConfigError, match=r"--tune\.resume: train\.steps = 7, but the sweep in .* has 1000"):
        read_journal(str(tmp_path / "s"), config(tmp_path, {"model.num_hashes": [1, 2, 4]}, **{"train.steps": 7}))
    with pytest.raises(ConfigError, match=r"has no sweep\.json"):
        read_journal(str(tmp_path / "other"), asked)
    journal = tmp_path / "s" / "sweep.json"
    tree = json.loads(journal.read_text())
    del tree["config"]["objective"]
    journal.write_text(json.dumps(tree))
    assert read_journal(str(tmp_path / "s"), asked) == (run_id, earlier), "a section that came later has its defaults"


def test_objectives_are_swept_and_those_that_do_not_go_with_the_model_left_out(tmp_path: Path) -> None:
    space = {"objective.name": ["next_token", "masked"], "model.causal": [True, False]}
    search = search_of(config(tmp_path, space, **{"model.vocab_size": 257}))
    assert [tuple(trial.values.values()) for trial in search.planned] == [("next_token", True), ("masked", False)]
    problems = [trial.problem for trial in search.trials.values() if trial.status == "impossible"]
    assert len(problems) == 2
    assert all(problem.startswith("model.causal = ") for problem in problems)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, r"tune\.space = \{\} names no field; .* works"),
        ({"model.num_hashes": []}, r"tune\.space gives no values for model\.num_hashes; .* works"),
        ({"model.num_hash": [1]}, r"unknown field model\.num_hash; did you mean model\.num_hashes\?"),
        ({"tracking.uri": ["x"]}, r"tune\.space names tracking\.uri, which does not change a training"),
        ({"train.run_name": ["x"]}, r"tune\.space names train\.run_name, which does not change a training"),
        ({"model.num_hashes": {"int": [4, 1]}}, r"int = \[4, 1\] must be smallest < largest"),
        ({"optimizer.learning_rate": {"loguniform": [0, 1]}}, r"must be 0 < smallest < largest"),
        ({"model.num_hashes": {"into": [1, 4]}}, r"has into, which is none of choice"),
        ({"optimizer.learning_rate": {"uniform": [0.1, 1]}}, r"grid needs points of an interval"),
        ({"train.seed": {"choice": [1], "when": {"model.causal": True}}}, r"must stand before it in the space"),
    ],
)
def test_a_wrong_space_is_one_line(tmp_path: Path, space: object, message: str) -> None:
    def ask() -> None:
        asked = config(tmp_path, space)
        spaces.fields(asked, Known())
        spaces.grid(asked, Known())

    with pytest.raises(ConfigError, match=message) as error:
        ask()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("workers", "use_gpu", "resources", "expected"),
    [
        (1, False, {"CPU": 2.0}, 2),
        (2, False, {"CPU": 2.0}, 1),
        (3, False, {"CPU": 8.0}, 2),
        (8, False, {"CPU": 2.0}, 1),
        (2, True, {"CPU": 64.0, "GPU": 5.0}, 2),
    ],
)
def test_trials_at_a_time_all_have_room_for_their_workers(
    workers: int, use_gpu: bool, resources: dict[str, float], expected: int
) -> None:
    assert room(workers, use_gpu, resources) == expected


def test_the_best_trial_comes_first_and_those_with_a_problem_last() -> None:
    impossible, failed = Trial(0, {}, status="impossible"), Trial(1, {}, status="failed")
    bad, good = finished(Trial(2, {}), 3.0), finished(Trial(3, {}), 2.0)
    assert ranked([impossible, bad, failed, good]) == (good, bad, failed, impossible)
    assert ranked([good, bad], "speed") == (bad, good)


def test_the_front_is_what_nothing_beats() -> None:
    points = [(1.0, 3.0), (2.0, 2.0), (3.0, 3.0), (2.0, 4.0), (4.0, 3.5)]
    assert front(points, maximize=False) == [0, 1]
    assert front(points, maximize=True) == [1, 2, 4]


def test_importance_finds_the_field_that_matters(tmp_path: Path) -> None:
    asked = config(tmp_path, {"model.num_hashes": [1, 2, 4], "train.seed": [0, 1, 2]})
    trials = [finished(t, float(t.values["model.num_hashes"])) for t in search_of(asked).planned]
    shares = importance(asked.tune, trials, "loss")
    assert shares["model.num_hashes"] > 0.9
    assert importance(asked.tune, trials[:2], "loss") == {}


def test_importance_compares_the_trials_in_which_every_field_matters(tmp_path: Path) -> None:
    space = {
        "model.layers": ["lsh", "full"],
        "model.num_hashes": {"choice": [1, 2, 4], "when": {"model.layers": "lsh"}},
        "model.lsh_window": {"choice": [8, 16], "when": {"model.layers": "lsh"}},
    }
    asked = config(tmp_path, space)
    trials = [finished(t, float(t.values.get("model.num_hashes", 100))) for t in search_of(asked).planned]
    assert len(trials) == 7
    compared = comparable(trials)
    assert [trial.values["model.layers"] for trial in compared] == ["lsh"] * 6
    shares = importance(asked.tune, trials, "loss")
    assert shares["model.num_hashes"] > 0.9
    picture = pictures.importances({"loss": shares}, compared, trials)
    assert "6 trials with layers lsh" in picture.axes[0].get_xlabel()


def test_every_varying_field_colours_the_curves_and_the_front_is_named() -> None:
    values = [{"model.layers": "lsh", "model.num_hashes": n} for n in (1, 4)] + [{"model.layers": "full"}]
    trials = [finished(Trial(index, each), 3.0 - index) for index, each in enumerate(values)]
    curves = [[(10, 5.0), (20, trial.metrics["validation/bits_per_token"])] for trial in trials]
    panels = pictures.learning_curves(trials, curves).axes
    assert [panel.get_legend().get_title().get_text() for panel in panels] == ["layers", "num_hashes"]
    assert [text.get_text() for text in panels[1].get_legend().get_texts()] == ["1", "4", "not used"]
    assert [line.get_xydata().tolist() for line in panels[1].lines] == [[[10, 5], [20, 3 - i]] for i in range(3)]
    (legend,) = pictures.pareto(trials).legends
    assert [text.get_text() for text in legend.get_texts()] == [
        " 1   layers lsh, num_hashes 1",  # the fastest
        " 2   layers lsh, num_hashes 4",
        " 3   layers full",  # the lowest loss
    ]


def test_a_sweep_without_a_success_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    main = runpy.run_path(str(Path(__file__).parents[2] / "jobs/tune.py"))["main"]
    trial = Trial(0, {"model.num_hashes": 4}, status="failed", problem="out of memory")
    monkeypatch.setitem(main.__globals__, "sweep", lambda *_: Sweep((trial,), "run", "uri", "hint"))
    with pytest.raises(JobFailed, match="no trial succeeded"):
        main(Config())
    assert "num_hashes 4: out of memory" in capsys.readouterr().out


def test_a_line_about_a_trial_is_no_result_that_asha_compares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def launch(config: Config, *, parent_run: str, watcher: Following) -> object:
        watcher.started("run")
        watcher.reported(10, {"validation/bits_per_token": 3.0, "memory/worker_0_mib": 9.0})
        watcher.reported(15, {"train/loss": 2.0})
        watcher.told("MLflow is away")
        raise JobFailed("enough")

    monkeypatch.setattr("reformer_dist.tuning.following.launch", launch)
    maker = Maker(config(tmp_path, {"model.num_hashes": [1]}), "s-1", [])
    following = Following(Job(maker, "parent", str(tmp_path), one_thread=True), maker.trial(0, {"model.num_hashes": 1}))
    validation, line, end = (following.result() for _ in range(3))
    assert (validation["step"], validation["validation/bits_per_token"]) == (10, 3.0)
    assert line["told"] == "MLflow is away"
    assert "validation/bits_per_token" not in line, "the value of step 10 would count as that of step 15"
    assert (end["ended"], end["problem"]) == (True, "enough")


def test_a_lost_process_is_one_line_and_the_rest_is_kept(tmp_path: Path) -> None:
    text = (
        "Failure # 1 (occurred at noon)\nThe actor died unexpectedly before finishing this task.\n\tpid: 7\n"
        "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: "
        "Worker unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) memory.\n"
    )
    expected = "its process was lost: Worker unexpectedly exits with a connection error code 2"
    assert lost_process(text) == expected
    assert lost_process("Traceback\n  at x\nValueError: no") == "its process failed: ValueError: no"
    path = keep(text, str(tmp_path / "new" / "run"))
    assert Path(path).read_text() == text


def test_what_is_not_offered_is_told_with_what_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tune\.scheduler = 'pbt' should be 'none' or 'asha'"):
        config(tmp_path, {"model.num_hashes": [1]}, **{"tune.scheduler": "pbt"})


def record(**hashing: float) -> RunRecord:
    parameters = {
        "model.num_hashes": "2",
        "model.num_buckets": "16",
        "model.lsh_window": "8",
        "model.max_length": "512",
    }
    return RunRecord(
        "id", "a", "FINISHED", parameters, {f"hashing/{k}": [Point(9, 0, v)] for k, v in hashing.items()}, ""
    )


def test_a_suggestion_weighs_mass_against_its_price() -> None:
    more = suggest(
        record(caught=0.5, caught_one_round_more=0.7, caught_half_the_buckets=0.5, caught_one_round_less=0.3)
    )
    assert "to try: --model.num_buckets 8" in more
    less = suggest(record(caught=0.95, caught_one_round_less=0.94))
    assert "to try: --model.num_hashes 1" in less
    gain = suggest(record(caught=0.5, caught_one_round_more=0.7, caught_twice_the_window=0.55))
    assert "to try: --model.num_hashes 3" in gain
    twice = next(line for line in gain.splitlines() if "twice the window" in line)
    assert "--model.num_buckets" in twice, (
        "the mass was measured with the buckets of now, which follow the window if not given"
    )
    assert "keep it" in suggest(record(caught=0.95, caught_one_round_more=0.97))
    with pytest.raises(ConfigError, match="has no hash health"):
        suggest(record())
