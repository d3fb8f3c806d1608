"""Finished trainings in a file of JSON lines, so that a suite goes on where it was ended.

In: tasks and outcomes. Out: what was found for a task; rows for a report.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from reformer_dist.benchmarks.learning.quality.corpora import Corpus
from reformer_dist.benchmarks.learning.quality.training import Outcome, Task, train


class Results:
    """A file with a line for each finished training."""

    def __init__(self, path: Path) -> None:
        """Read what is there; a last line that was not written to its end is taken away."""
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_bytes() if path.exists() else b""
        whole = text[: text.rfind(b"\n") + 1]
        if len(whole) < len(text):
            os.truncate(path, len(whole))
        self._lines: list[dict[str, Any]] = [json.loads(line) for line in whole.splitlines()]

    def __iter__(self) -> Iterator[tuple[Task, Outcome]]:
        """All finished trainings in the order in which they ended."""
        for line in self._lines:
            yield Task(**line["task"]), Outcome.from_json(line["outcome"])

    def get(self, task: Task) -> Outcome | None:
        """What came of a task that is equal in all its values, if it was finished."""
        return next((outcome for other, outcome in self if other == task), None)

    def finished(self, task: Task, corpus: Corpus) -> Outcome:
        """What came of the task; it is trained and written down where it was not yet."""
        outcome = self.get(task)
        if outcome is None:
            outcome = train(task, corpus)
            line = {"task": asdict(task), "outcome": outcome.to_json(), "threads": torch.get_num_threads()}
            self._lines.append(json.loads(json.dumps(line)))
            with self.path.open("a", encoding="utf-8") as file:
                file.write(f"{json.dumps(line)}\n")
            _tell(corpus.name, task, outcome)
        return outcome


def _tell(corpus: str, task: Task, outcome: Outcome) -> None:
    speed = outcome.tokens / outcome.cpu_seconds
    print(
        f"{corpus}, {task.length:,} tokens, {task.name}, seed {task.seed}, learning rate x {task.scale:g}: "
        f"{outcome.bits:.3f} bits, {outcome.tokens / 1e6:.2f} M tokens in {outcome.cpu_seconds:.0f} CPU-s "
        f"({speed:,.0f} a CPU-s), {outcome.wall_seconds:.0f} s",
        flush=True,
    )
