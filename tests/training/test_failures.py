"""What went wrong, in one line, and the rest in a file."""

from pathlib import Path

from reformer_dist.training.failures import explain, first_cause, keep, lost_process


class Failed(Exception):
    """What Ray Train raises when workers failed."""

    def __init__(self, text: str, worker_failures: dict[int, RuntimeError]) -> None:
        super().__init__(text)
        self.worker_failures = worker_failures


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


def test_the_worker_that_failed_by_itself_is_the_cause(tmp_path: Path) -> None:
    errors = {
        0: RuntimeError("gloo: Connection closed by peer [127.0.0.1]"),
        1: RuntimeError("Traceback (most recent call last):\n  File x\nMemoryError: no room"),
    }
    assert first_cause(errors)[0] == 1
    assert first_cause({3: errors[0]})[0] == 3, "all that there is"
    line = explain(Failed("at length\nand in detail", errors), str(tmp_path))
    assert line.startswith("worker 1 failed: MemoryError: no room (all of it: ")
    assert (tmp_path / "error.txt").read_text() == "at length\nand in detail"
