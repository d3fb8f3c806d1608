"""What is known of a sweep's trials: their order, and the journal."""

import json
from pathlib import Path

import pytest

from reformer_dist.errors import ConfigError
from reformer_dist.tracking.trials import Trial, ranked, read_journal, write_journal
from tests.tuning.trials import config, finished, search_of


def test_the_best_trial_comes_first_and_those_with_a_problem_last() -> None:
    impossible, failed = Trial(0, {}, status="impossible"), Trial(1, {}, status="failed")
    bad, good = finished(Trial(2, {}), 3.0), finished(Trial(3, {}), 2.0)
    assert ranked([impossible, bad, failed, good]) == (good, bad, failed, impossible)
    assert ranked([good, bad], "speed") == (bad, good)


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
