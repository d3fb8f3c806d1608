"""What comes out of a training that is followed, without training."""

from pathlib import Path

import pytest

from reformer_dist.config import Config
from reformer_dist.errors import JobFailed
from reformer_dist.tuning.following import Following, Job
from reformer_dist.tuning.maker import Maker
from tests.tuning.trials import config


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
