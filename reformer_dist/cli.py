"""What every job's command line shares: read the configuration, run, and answer a user's mistakes with a line each."""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from reformer_dist.config import Further, parse_command_line
from reformer_dist.errors import ConfigError, JobFailed, JobStopped


def run_job(
    function: Callable[..., None],
    description: str,
    further: Further = lambda config, right: (),
    switches: Mapping[str, str] | None = None,
) -> None:
    """Run a job as a script's whole work.

    Args:
        function: the job, given the configuration of this process's command line, and each switch by name as a bool.
        description: first lines of `--help`.
        further: what the job would find wrong next, told with a configuration's own mistakes.
        switches: options of this job alone, which are there or not, and the help of each.

    See `answer` for how it ends.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name, help_text in (switches or {}).items():
        parser.add_argument(f"--{name}", action="store_true", help=help_text)
    chosen, rest = parser.parse_known_args()
    more = "".join(f"\n--{name}: {help_text}" for name, help_text in (switches or {}).items())
    answer(lambda: function(parse_command_line(description + more, rest, further=further), **vars(chosen)))


def answer(job: Callable[[], None]) -> None:
    """Run a job; what it raises is answered.

    A `ConfigError` becomes a line on stderr for each of its problems and exit status 2, an `OSError` (a file that cannot be
    read, a server that does not answer) one line and the same status, a `JobFailed` one with status 1, a `JobStopped` one
    with its own; anything else is a fault of ours and keeps its traceback. Where the job does not see to it itself, Ctrl-C,
    SIGTERM and SIGHUP (a terminal that is closed) unwind it as any exception does, and exit with 130, 143 and 129;
    output that nobody reads any more (SIGPIPE) with 141.
    """
    try:
        with _stopped_by_signals():
            job()
    except SystemExit as ended:
        if ended.code != signal.SIGTERM:
            raise
        sys.exit(_fail(["stopped by SIGTERM"], 128 + signal.SIGTERM))  # Ray, while it starts, answers the signal itself
    except _Asked as asked:
        sys.exit(_fail([f"stopped by {asked.signal.name}"], 128 + asked.signal))
    except ConfigError as error:
        sys.exit(_fail(error.problems, 2))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it ends
        sys.exit(_fail(["stopped by SIGPIPE"], 128 + signal.SIGPIPE))
    except OSError as error:
        sys.exit(_fail([str(error)], 2))
    except JobFailed as error:
        sys.exit(_fail([str(error)], 1))
    except JobStopped as stopped:
        sys.exit(_fail([str(stopped)], stopped.status))
    except KeyboardInterrupt:
        sys.exit(_fail(["interrupted"], 130))


class _Asked(KeyboardInterrupt):
    """The process is asked to end."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.signal = signal.Signals(number)


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP raise in the main thread; who asked for silence about one (nohup) is obeyed."""

    def ask(number: int, frame: FrameType | None) -> None:
        raise _Asked(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heeded = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is not signal.SIG_IGN]
    before = {number: signal.signal(number, ask) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _fail(reasons: Sequence[str], status: int) -> int:
    path = Path(sys.argv[0])
    program = f"reformer_dist.{path.parent.name}" if path.name == "__main__.py" else path.name
    for reason in reasons:
        print(f"{program}: {' '.join(reason.split())}", file=sys.stderr)
    return status
