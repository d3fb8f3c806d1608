"""How a job ends: what each kind of failure says, and the exit status."""

import signal
import subprocess
import sys
from pathlib import Path

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


def test_a_password_where_a_section_belongs_is_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("data: ['s3://KEY:hush@bucket/x']\ndata.sources: a.txt\n")
    with pytest.raises(ConfigError, match=r"data = \['s3://KEY:\.\.\.@bucket/x'\]: must be a section"):
        load_config(path)


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


JOB = """
import signal, sys, time
from reformer_dist import cli
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever this test was started under
signal.signal(signal.SIGHUP, signal.SIG_DFL)
{before}
def job():
    try:
        print("ready", flush=True)
        time.sleep(20)
        print("slept", flush=True)
    finally:
        print("put away", flush=True)
cli.answer(job)
"""


def signalled(number: int, before: str = "") -> tuple[int, str, str]:
    """Status and output of a job that gets a signal while it works."""
    script = JOB.format(before=before).replace("time.sleep(20)", "time.sleep(20 if not sys.argv[1:] else 1)")
    command = [sys.executable, "-c", script, *(["short"] if before else [])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.parametrize(
    ("number", "line"),
    [
        (signal.SIGTERM, "stopped by SIGTERM"),
        (signal.SIGHUP, "stopped by SIGHUP"),
        (signal.SIGINT, "interrupted"),
    ],
)
def test_a_signal_unwinds_a_job_and_is_one_line(number: signal.Signals, line: str) -> None:
    status, out, err = signalled(number)
    assert (status, out) == (128 + number, "put away\n")
    assert err == f"-c: {line}\n"


def test_a_closed_terminal_is_ignored_under_nohup() -> None:
    status, out, err = signalled(signal.SIGHUP, "signal.signal(signal.SIGHUP, signal.SIG_IGN)")
    assert (status, out, err) == (0, "slept\nput away\n", "")


def test_output_that_nobody_reads_is_one_line() -> None:
    script = """
import time
from reformer_dist import cli
def job():
    for number in range(100):
        print(number, flush=True)
        time.sleep(0.01)
cli.answer(job)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "0\n"
    process.stdout.close()
    assert process.stderr.read() == "-c: stopped by SIGPIPE\n"
    assert process.wait() == 128 + signal.SIGPIPE
