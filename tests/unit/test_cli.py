"""How a job ends: what each kind of failure says, and the exit status."""

import pytest

from reformer_dist import cli
from reformer_dist.config import ConfigError


@pytest.mark.parametrize(
    ("failure", "status", "line"),
    [
        (
            ConfigError("train.steps = 0 must be at least 1; 100 works"),
            2,
            "train.steps = 0 must be at least 1; 100 works",
        ),
        (OSError("/nowhere: no such file"), 2, "/nowhere: no such file"),
        (cli.JobFailed("the loss of step 3\n  is not finite"), 1, "the loss of step 3 is not finite"),
        (cli.JobStopped("stopped at step 7", 143), 143, "stopped at step 7"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_a_failure_is_one_line_and_a_status(
    failure: BaseException,
    status: int,
    line: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def job() -> None:
        raise failure

    monkeypatch.setattr("sys.argv", ["jobs/train.py"])
    with pytest.raises(SystemExit) as ended:
        cli.answer(job)
    assert ended.value.code == status
    assert capsys.readouterr() == ("", f"train.py: {line}\n")


def test_our_own_faults_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        cli.answer(lambda: print(1 / 0))
