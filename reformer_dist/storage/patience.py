"""Calls of a server that may go away for a while.

In: a client and how to tell that its server is away. Out: the same client, whose calls wait for the server to come back.
"""

import threading
import time
from collections.abc import Callable
from typing import Any

from reformer_dist.errors import JobFailed

PATIENCE_SECONDS = 600.0
"""After so long a server is given up."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 15.0
"""Seconds between two attempts, doubled after each."""


class ServerAway(JobFailed):
    """A server was given up."""


class Patient:
    """A client whose methods try again until the server answers; a line tells when it goes away and when it is back.

    Threads may share it.

    Args:
        client: its methods are called with what is given.
        errors: what it raises.
        is_away: whether one of them means that the server is away, and not that it refuses.
        name: what is away, for people.
        tell: takes the lines.

    Its methods raise what the client's raise, and `ServerAway` after PATIENCE_SECONDS.
    """

    def __init__(
        self,
        client: Any,
        errors: tuple[type[Exception], ...],
        is_away: Callable[[Any], bool],
        name: str,
        tell: Callable[[str], object],
    ) -> None:
        self._client, self._errors, self._is_away = client, errors, is_away
        self._name, self._tell = name, tell
        self._lock = threading.Lock()
        self._away_since: float | None = None
        self._given_up = threading.Event()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)
        return lambda *arguments, **options: self._call(lambda: method(*arguments, **options))

    def give_up(self) -> None:
        """Wait no longer: calls under way try once more, later ones once."""
        self._given_up.set()

    def _call(self, call: Callable[[], Any]) -> Any:
        start, wait = time.monotonic(), FIRST_WAIT
        while True:
            try:
                result = call()
            except self._errors as error:
                if not self._is_away(error):
                    raise
                self._went(error)
                if self._given_up.is_set() or time.monotonic() - start > PATIENCE_SECONDS:
                    raise ServerAway(f"{self._name} does not answer; the same command sends what it lacks") from None
                self._given_up.wait(wait)
                wait = min(2 * wait, LONGEST_WAIT)
            else:
                self._came_back()
                return result

    def _went(self, error: Exception) -> None:
        with self._lock:
            if self._away_since is None:
                self._away_since = time.monotonic()
                self._tell(f"{self._name} does not answer; what it is to have is kept for it ({_first_line(error)})")

    def _came_back(self) -> None:
        with self._lock:
            if self._away_since is not None:
                self._tell(f"{self._name} answers again after {time.monotonic() - self._away_since:.0f} s")
                self._away_since = None


def _first_line(error: Exception, most: int = 120) -> str:
    """The beginning of an exception's text."""
    text = " ".join(str(error).split())
    return text if len(text) <= most else f"{text[:most]}..."
