"""The training job as a user starts it, with a clock beside it.

In: options of the command line. Out: when it printed what, and which of its processes started when.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Condition, Thread

import psutil

SCRIPT = Path(__file__).parents[3] / "jobs/train.py"
PATIENCE = 300.0
"""Longest wait for anything, in seconds."""
POLL_SECONDS = 0.02


class Job:
    """`jobs/train.py`, running.

    Attributes:
        started: when it was started, as `time.time` has it.
    """

    def __init__(self, options: Mapping[str, object]) -> None:
        """Start it with `--name value` for each option."""
        command = [sys.executable, str(SCRIPT)]
        command += [part for name, value in options.items() for part in (f"--{name}", str(value))]
        self._lines: list[tuple[float, str]] = []
        self._news = Condition()
        self.started = time.time()
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self._created = psutil.Process(self._process.pid).create_time()
        Thread(target=self._read, daemon=True).start()

    def time_of(self, start: str, after: float = 0.0) -> float:
        """When it printed the first line that begins so and came after some time; waits for it.

        Raises:
            RuntimeError: it ends without, or takes longer than PATIENCE.
        """

        def found() -> list[float]:
            return [when for when, line in self._lines if line.startswith(start) and when > after]

        with self._news:
            in_time = self._news.wait_for(lambda: found() or self._process.poll() is not None, PATIENCE)
            if not in_time or not found():
                raise RuntimeError(f"no line {start!r} of the job:\n{self.output()}")
            return found()[0]

    def wait_until(self, reached: Callable[[], bool]) -> None:
        """Wait for something to become true while it runs.

        Raises:
            RuntimeError: it ends first, or takes longer than PATIENCE.
        """
        end = time.time() + PATIENCE
        while not reached():
            if self._process.poll() is not None or time.time() > end:
                raise RuntimeError(f"the job did not come so far:\n{self.output()}")
            time.sleep(POLL_SECONDS)

    def processes(self, name: str) -> list[psutil.Process]:
        """Those of its processes that run now and have `name` in their command, the oldest first."""
        found = []
        for process in psutil.Process(self._process.pid).children(recursive=True):
            try:
                if name in " ".join(process.cmdline()[:1]):
                    found.append(process)
            except psutil.Error:
                continue
        return sorted(found, key=lambda process: process.create_time())

    def start_of(self, process: psutil.Process) -> float:
        """When one of its processes was started, as `time.time` has it: psutil's clock may be a second off."""
        return self.started + process.create_time() - self._created

    def finish(self) -> None:
        """Wait for its end.

        Raises:
            RuntimeError: it failed.
        """
        if self._process.wait():
            raise RuntimeError(f"the job failed:\n{self.output()}")

    def output(self) -> str:
        """All that it has printed."""
        return "\n".join(line for _, line in self._lines)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._news:
                self._lines.append((time.time(), line.rstrip()))
                self._news.notify_all()
        self._process.wait()
        with self._news:
            self._news.notify_all()
