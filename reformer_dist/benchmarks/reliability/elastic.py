"""Does an elastic training follow its cluster? Nodes join, vanish and are announced to be taken away, on one machine.

In: nothing but a size, which makes no difference. Out: how long each change of size took, the steps that were computed
again, and how far the curve is from that of one worker that nothing disturbed.

The cluster's head has room for one worker, and so has the node that joins, is killed without a word, joins again, and is
drained with a deadline, as a script does that hears of a spot instance's end. Timings are those of Ray's defaults.
"""

import json
import random
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ray.cluster_utils import Cluster

from reformer_dist.benchmarks.reliability.trainings import Training, curve, settings, steps_again, write_documents

CHECKPOINT_EVERY = 20
DEADLINE_SECONDS = 20
TOLERANCE = 1e-6
"""Relative, in float64, as the promise is: sums are added in another order."""


@dataclass
class Report:
    """What happened.

    Attributes:
        seconds: from each event until the next step with the new number of workers, by event.
        steps: steps of the training.
        steps_again: those that were computed more than once, by event.
        apart: greatest relative difference of a step's loss from that of the undisturbed training.
    """

    seconds: dict[str, float]
    steps: int
    steps_again: dict[str, int]
    apart: float


def run(size: Literal["small", "paper"], output: Path) -> None:
    """Print the report and write elastic.json into `output`."""
    with tempfile.TemporaryDirectory() as folder:
        report = disturb(Path(folder))
    for event, seconds in report.seconds.items():
        print(f"{event}: {seconds:.0f} s, {report.steps_again[event]} steps computed again")
    print(f"greatest relative difference of {report.steps} losses: {report.apart:.1e}")
    output.mkdir(parents=True, exist_ok=True)
    path = output / "elastic.json"
    path.write_text(json.dumps(asdict(report), indent=1))
    print(path)
    if report.apart > TOLERANCE:
        sys.exit(1)


def disturb(folder: Path) -> Report:
    """Train in `folder` while nodes come and go, then as long with one worker in peace."""
    write_documents(folder, random.Random(0))
    values = settings(
        folder,
        steps=10**6,
        validate_every=10**6,
        checkpoint_every=CHECKPOINT_EVERY,
        dtype="float64",
        resize_seconds=5.0,
    ) | {"optimizer.schedule": "constant"}
    cluster = Cluster(initialize_head=True, head_node_args=_node())
    try:
        training = Training(values | _named("elastic", (1, 2)), {"RAY_ADDRESS": cluster.address})
        training.wait_until(lambda: training.steps_done() > 0)
        seconds, again = {}, {}
        for event in ("a node joins", "it is killed", "another joins", "it is drained"):
            before = training.output()
            if "joins" in event:
                node = cluster.add_node(**_node())
            elif event == "it is killed":
                cluster.remove_node(node, allow_graceful=False)
            else:
                _drain(cluster.address, node.node_id)
            seconds[event] = training.wait_until(partial(_resized, training, before))
            again[event] = steps_again(training.output()[len(before) :])
        training.stop()
    finally:
        cluster.shutdown()
    disturbed = curve(folder, "elastic")
    Training(values | _named("calm", 1) | {"train.steps": len(disturbed)}).finish()
    calm = curve(folder, "calm")
    assert [step for step, _ in disturbed] == [step for step, _ in calm], "each step is logged once"
    apart = max(abs(a / b - 1) for (_, a), (_, b) in zip(disturbed, calm, strict=True))
    return Report(seconds, len(calm), again, apart)


def _named(name: str, workers: int | tuple[int, int]) -> dict[str, Any]:
    return {"train.run_name": name, "train.workers": workers}


def _node() -> dict[str, Any]:
    return {"num_cpus": 1, "include_dashboard": False}


def _resized(training: Training, before: str) -> bool:
    """Whether other workers have taken over and done steps since."""
    news = training.output()[len(before) :]
    _, started, after = news.rpartition("continuing from step ")
    return bool(started) and "\nstep " in after


def _drain(address: str, node_id: str) -> None:
    """Announce that a node will be taken away."""
    command = [str(Path(sys.executable).parent / "ray"), "drain-node", "--address", address, "--node-id", node_id]
    command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
    command += ["--deadline-remaining-seconds", str(DEADLINE_SECONDS)]
    subprocess.run(command, check=True, capture_output=True)
