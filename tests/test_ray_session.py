"""Ray is started once more on a machine that was too busy, and a start that failed leaves no process."""

import socket
import subprocess
import sys
import time

import pytest

from reformer_dist.ray_session import ray_session as session

SCRIPT = """
import sys
import psutil
import ray
from reformer_dist import cli, ray_session
from reformer_dist.ray_session import ray_session as session

failures = int(sys.argv[1])
start = ray.init

def too_busy(**options):
    global failures
    start(**options)
    if failures:
        failures -= 1
        ray._private.worker._global_node = None  # Ray itself forgets what it started
        raise Exception("The current node\\n timed out")

def job():
    with session():
        print(ray.get(ray.remote(lambda: "works").remote()))

ray.init = too_busy
try:
    cli.answer(job)
finally:
    print([process.name() for process in psutil.Process().children(recursive=True)])
"""


@pytest.mark.parametrize(
    ("failures", "out", "err", "status"),
    [(1, "works\n[]\n", "", 0), (2, "[]\n", "-c: Ray does not start here: The current node timed out\n", 1)],
)
def test_a_start_that_fails_is_tried_again_and_leaves_nothing(failures: int, out: str, err: str, status: int) -> None:
    ended = subprocess.run([sys.executable, "-c", SCRIPT, str(failures)], capture_output=True, text=True, check=False)
    assert (ended.stdout, ended.stderr, ended.returncode) == (out, err, status)


def test_a_cluster_that_is_away_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    for url, why in (
        (address, "refused"),
        (f"ray://{address}", "refused"),
        ("127.0.0.1:port", "Port could not be cast"),
    ):
        monkeypatch.setenv("RAY_ADDRESS", url)
        start = time.monotonic()
        with (
            pytest.raises(ConnectionError, match=rf"^RAY_ADDRESS = {url} does not answer: .*{why}.*; without"),
            session(),
        ):
            pass
        assert time.monotonic() - start < 5
