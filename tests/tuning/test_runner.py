"""A sweep around its trials: how many at a time, and its end without a success."""

import runpy
from pathlib import Path

import pytest

from reformer_dist.config import Config
from reformer_dist.errors import JobFailed
from reformer_dist.tracking.trials import Sweep, Trial
from reformer_dist.tuning.runner import room


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


def test_a_sweep_without_a_success_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    main = runpy.run_path(str(Path(__file__).parents[2] / "jobs/tune.py"))["main"]
    trial = Trial(0, {"model.num_hashes": 4}, status="failed", problem="out of memory")
    monkeypatch.setitem(main.__globals__, "sweep", lambda *_: Sweep((trial,), "run", "uri", "hint"))
    with pytest.raises(JobFailed, match="no trial succeeded"):
        main(Config())
    assert "num_hashes 4: out of memory" in capsys.readouterr().out
