"""What went wrong in the workers, in one line, and where the whole story is."""

import re
from collections.abc import Mapping

from reformer_dist.storage.stores import below, open_store

CONSEQUENCES = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Timed out waiting",
    "ActorDied",
)
"""What a worker says when another one is gone; such a failure is not the cause if there is any other."""


def first_cause(errors: Mapping[int, BaseException]) -> tuple[int, BaseException]:
    """(rank, error) of the worker that failed by itself, as far as the errors show."""
    by_rank = sorted(errors.items())
    causes = [item for item in by_rank if not any(text in str(item[1]) for text in CONSEQUENCES)]
    return (causes or by_rank)[0]


def kind_and_reason(error: BaseException) -> str:
    """Kind and reason of an error; of a worker's traceback, which Ray Train gives as text, the last line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines and lines[0].startswith("Traceback"):
        return lines[-1]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def explain(error: BaseException, folder: str) -> str:
    """Keep the whole text of an error in the run's folder and return one line that tells the cause and the file."""
    failures: Mapping[int, BaseException] = getattr(error, "worker_failures", {})
    if failures:
        rank, cause = first_cause(failures)
        reason = f"worker {rank} failed: {kind_and_reason(cause)}"
    else:
        reason = kind_and_reason(error)
    return f"{reason} (all of it: {keep(str(error), folder)})"


def lost_process(text: str) -> str:
    """Why a process was lost, in one line, of what Ray says of it at length."""
    detail = re.search(r"Worker exit detail: (.+?)(?:\. |\.?\n|\.?$)", text)
    if detail:
        return f"its process was lost: {detail.group(1).strip()}"
    return f"its process failed: {text.strip().splitlines()[-1].strip()}"


def keep(text: str, folder: str) -> str:
    """Write the whole text of an error into a run's folder, which is made if need be; where it is then."""
    store = open_store(below(folder, "error.txt"))
    store.filesystem.create_dir(store.path.rpartition("/")[0], recursive=True)
    with store.filesystem.open_output_stream(store.path) as stream:
        stream.write(text.encode())
    return store.url(store.path)
