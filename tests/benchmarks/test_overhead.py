"""What a job costs beside its training is told by its lines and its processes."""

import time
from pathlib import Path

import pytest

from reformer_dist import checkpoints
from reformer_dist.benchmarks.reliability import jobs, overhead

JOB = """
import subprocess, sys, time
print(" ".join(sys.argv[1:]), flush=True)
if "--fail" in sys.argv:
    sys.exit("a reason")
as_ray = lambda name: subprocess.Popen(["bash", "-c", f"exec -a {name} sleep 60"])
ray, worker = as_ray("raylet"), as_ray("ray::RayTrainWorker")
time.sleep(0.2)
print("attention of it", flush=True)
time.sleep(0.3)
print("step 1/9", flush=True)
worker.wait()
for line, seconds in (("worker 0 failed", 0.1), ("continuing from step 5", 0.2), ("step 6/9", 0)):
    print(line, flush=True)
    time.sleep(seconds)
ray.kill()
"""


@pytest.fixture(autouse=True)
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that prints what a training would."""
    (tmp_path / "job.py").write_text(JOB)
    monkeypatch.setattr(jobs, "SCRIPT", tmp_path / "job.py")


def test_the_parts_of_a_start_and_of_a_lost_worker_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "newest_step", lambda folder: 5)
    options = {"train.storage": tmp_path, "train.run_name": "x"}
    rows = [seconds for _, seconds in overhead._started_and_killed(options, workers=1)]
    assert rows[4] == pytest.approx(sum(rows[:4]))
    assert rows[3] == pytest.approx(0.3, abs=0.15)
    assert rows[8] == pytest.approx(sum(rows[5:8]))
    assert rows[6] == pytest.approx(0.1, abs=0.1)
    assert min(rows) >= 0


def test_a_job_that_ends_too_early_is_told_with_its_output() -> None:
    job = jobs.Job({"fail": "now"})
    start = time.monotonic()
    with pytest.raises(RuntimeError, match=r"(?s)no line 'step 1/' of the job:.*--fail now.*a reason"):
        job.time_of("step 1/")
    assert time.monotonic() - start < 10
    with pytest.raises(RuntimeError, match="the job failed"):
        job.finish()
