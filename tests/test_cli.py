"""How a job ends: what each kind of failure says, and the exit status."""

import pytest

from reformer_dist import cli
from reformer_dist.config import load_config
from reformer_dist.errors import ConfigError


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


@pytest.mark.parametrize(
    ("field", "value", "shown"),
    [
        ("data.sources", "s3://KEY:hush@bucket/x?region=eu", "s3://KEY:...@bucket"),
        ("data.sources", ("books", "https://me:hush@host/x"), "https://me:...@host"),
        ("train.storage", "s3://KEY:hush@bucket/runs", "s3://KEY:...@bucket"),
        ("tracking.uri", "postgresql://me:hush@host:5432/mlflow", "postgresql://me:...@host:5432"),
    ],
)
def test_passwords_are_refused_without_being_shown(field: str, value: object, shown: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_config(None, {field: value})
    assert str(refused.value).startswith(f"{field} = {shown} holds a password")
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize("place", ["gs://anonymous@bucket/x", "http://host:80/a@b", "s3://bucket/a:b@c", "C:/x:y@z"])
def test_places_without_a_password_are_taken(place: str) -> None:
    assert load_config(None, {"data.sources": place}).data.sources == (place,)


def test_several_mistakes_are_a_line_each(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def job() -> None:
        raise ConfigError("a = 1 is wrong; 2 works", "b = 3\n is wrong; 4 works")

    monkeypatch.setattr("sys.argv", ["jobs/train.py"])
    with pytest.raises(SystemExit) as ended:
        cli.answer(job)
    assert ended.value.code == 2
    assert capsys.readouterr() == ("", "train.py: a = 1 is wrong; 2 works\ntrain.py: b = 3 is wrong; 4 works\n")
