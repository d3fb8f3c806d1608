"""What every job's command line shares: read the configuration, run, and answer a user's mistakes with a line each."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence

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
    config = parse_command_line(description + more, rest, further=further)
    answer(lambda: function(config, **vars(chosen)))


def answer(job: Callable[[], None]) -> None:
    """Run a job whose command line is read.

    A `ConfigError` becomes a line on stderr for each of its problems and exit status 2, an `OSError` (a file that cannot be
    read, a server that does not answer) one line and the same status, a `JobFailed` one with status 1, a `JobStopped` one
    with its own; anything else is a fault of ours and keeps its traceback. Ctrl-C exits with 130.
    """
    try:
        job()
    except ConfigError as error:
        sys.exit(_fail(error.problems, 2))
    except OSError as error:
        sys.exit(_fail([str(error)], 2))
    except JobFailed as error:
        sys.exit(_fail([str(error)], 1))
    except JobStopped as stopped:
        sys.exit(_fail([str(stopped)], stopped.status))
    except KeyboardInterrupt:
        sys.exit(_fail(["interrupted"], 130))


def _fail(reasons: Sequence[str], status: int) -> int:
    program = sys.argv[0].rpartition("/")[2]
    for reason in reasons:
        print(f"{program}: {' '.join(reason.split())}", file=sys.stderr)
    return status
