"""Starting and ending Ray for a job, without noise on the terminal.

Under `ray job submit`, or wherever RAY_ADDRESS says so, the job joins that cluster. Otherwise it starts a Ray of its
own on this machine, reachable from this machine only, and ends it with the job.
"""

import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from unittest import mock
from urllib.parse import urlsplit

# Read by Ray when it is imported or started, so this module sets them before it imports Ray.
_SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # a worker that is lost, or done, is noticed within this time, not after 2 s
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10",  # after a lost node: ask again how many workers there is room for
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the coming default; without it every start warns of the change
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_maximum_startup_concurrency": "64",  # a sweep's many small actors are meant, and no cause for warnings
    "RAY_ENABLE_AUTO_CONNECT": "0",  # a thread that is late must not start another Ray when a job has ended its own
}
for _name, _value in _SETTINGS.items():
    os.environ.setdefault(_name, _value)

import psutil  # noqa: E402
import ray  # noqa: E402
from ray._private.node import Node  # noqa: E402
from ray._private.ray_logging import stdout_deduplicator  # noqa: E402
from ray.util.placement_group import PlacementGroup, remove_placement_group  # noqa: E402

from reformer_dist.errors import JobFailed  # noqa: E402

_DEATHS = re.compile("A worker died or was killed while executing a task")
"""Ray's page about a lost process, which it prints whatever `log_to_driver` says; jobs tell of it in a line of their own."""

_HELPERS = ("start_monitor", "start_log_monitor", "start_api_server")
"""What Ray starts beside a node, one after the other, and `ray.init` has no switch for: the autoscaler, which a machine of
its own cannot use; what brings workers' output to the driver, which is not wanted; the dashboard's server, which serves
nothing without a dashboard."""

_SECONDS_TO_ANSWER = 10.0
"""For a cluster's port."""

_SECONDS_TO_END = 5.0
"""What processes of a Ray that is ended may take for it before they are killed."""


def will_join() -> bool:
    """Whether `ray_session` uses a Ray that runs already, or a cluster, rather than start one on this machine."""
    return ray.is_initialized() or bool(os.environ.get("RAY_ADDRESS"))


@contextmanager
def ray_session(num_cpus: int | None = None) -> Iterator[None]:
    """Ray, running inside the block; one that runs already is used and left running.

    Args:
        num_cpus: CPUs of a Ray started here, by default the machine's cores. A cluster that is joined keeps its own.

    Raises:
        ConnectionError: RAY_ADDRESS names a cluster that does not answer.
        JobFailed: Ray does not start on this machine.
    """
    if ray.is_initialized():
        yield
        return
    logging.getLogger("ray").setLevel(logging.ERROR)
    stdout_deduplicator.skip_re = (
        _DEATHS  # RAY_DEDUP_LOGS_SKIP_REGEX is read when Ray is first imported, before this module
    )
    before = psutil.Process().children()
    try:
        try:
            _start(num_cpus)
        except JobFailed:  # a machine that is very busy may need more than the half minute that Ray gives it
            _end(before)
            _start(num_cpus)
        yield
    finally:
        _end(before)


def free(placement_group: str) -> None:
    """End at once what runs in a placement group, given its id, and give its resources back."""
    remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(placement_group))))


def _rays(before: list[psutil.Process]) -> list[psutil.Process]:
    """The processes of Ray that this one has started, but for those that were there before."""
    return [child for child in psutil.Process().children() if child not in before and _is_rays(child)]


def _end(before: list[psutil.Process]) -> None:
    """End Ray, and kill what it does not: all of a start that was interrupted, and processes that outlive their parent.

    Args:
        before: processes of this one that are not Ray's.
    """
    started = _rays(before)
    beneath = _beneath(started)
    ray.shutdown()
    knew_of_all = not any(process.is_running() for process in started)
    psutil.wait_procs(beneath, timeout=_SECONDS_TO_END if knew_of_all else 0)
    for process in started:
        with suppress(psutil.NoSuchProcess):
            process.suspend()  # so that it starts no more
    for process in {*started, *beneath, *_beneath(started)}:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(started, timeout=_SECONDS_TO_END)


def _is_rays(process: psutil.Process) -> bool:
    """Whether a program of Ray's runs in it."""
    folder = os.path.dirname(ray.__file__)
    with suppress(psutil.Error):
        return any(part.startswith(folder) for part in process.cmdline())
    return False


def _beneath(processes: list[psutil.Process]) -> list[psutil.Process]:
    """What these have started and what those have, and so on."""
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            found += process.children(recursive=True)
    return found


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep this process's handler of SIGTERM, in whose place Ray puts one that exits with status 15."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and handler is not None:
            signal.signal(signal.SIGTERM, handler)


@contextmanager
def _without_helpers() -> Iterator[None]:
    """A block in which a Ray that is started has a node's own processes alone."""
    with ExitStack() as stack:
        for name in _HELPERS:
            stack.enter_context(mock.patch.object(Node, name, create=True))  # one that Ray no longer has is not called
        yield


def _expect_answer(address: str) -> None:
    """Ask a cluster's port, if its address names one: Ray itself asks for minutes."""
    try:
        place = urlsplit(address if "://" in address else f"//{address}")
        if place.hostname is not None and place.port is not None:
            socket.create_connection((place.hostname, place.port), timeout=_SECONDS_TO_ANSWER).close()
    except (OSError, ValueError) as error:
        raise ConnectionError(
            f"RAY_ADDRESS = {address} does not answer: {error}; without RAY_ADDRESS the job starts a Ray of its own"
        ) from None


def _start(num_cpus: int | None) -> None:
    if address := os.environ.get("RAY_ADDRESS"):
        _expect_answer(address)
        with _own_sigterm():
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        return
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # nobody drains it: a process less to start
    try:
        with _own_sigterm(), _without_helpers():
            ray.init(
                address="local",
                num_cpus=num_cpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _node_ip_address="127.0.0.1",
            )
    except Exception as error:  # Ray raises no narrower one, be the machine too busy or TMPDIR too deep
        hint = "; TMPDIR=/tmp works" if "AF_UNIX" in str(error) else ""
        raise JobFailed(f"Ray does not start here: {' '.join(str(error).split())}{hint}") from error
