"""What ends a job in readable lines: a user's mistakes, or a failure that is nobody's fault of programming.

Everything else that is raised is a fault of ours and keeps its traceback; `cli.answer` tells them apart.
"""


class ConfigError(ValueError):
    """Mistakes in the configuration, found together.

    Args:
        problems: a line for each mistake, which names the field, its value and a value that works.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__(*problems)

    @property
    def problems(self) -> tuple[str, ...]:
        """A line for each mistake, in the order in which to mend them."""
        return self.args

    def __str__(self) -> str:
        return "; and ".join(self.problems)


class JobFailed(Exception):
    """A job that could not finish, for a reason that one line can give."""


class JobStopped(Exception):
    """A job that was asked to stop and did so in good order.

    Args:
        message: one line on what is left and how to go on.
        status: exit status, 128 and the number of the signal.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status
