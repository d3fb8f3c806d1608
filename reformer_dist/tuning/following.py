"""A training that is followed from outside while it runs: one trial of a sweep, without Ray Tune.

In: a trial and what all trials share. Out: its results one after the other, at every validation and at its end.
"""

import queue
import threading
from dataclasses import dataclass
from statistics import median
from typing import Any

from reformer_dist.config import Config
from reformer_dist.errors import ConfigError, JobFailed
from reformer_dist.tracking.trials import SCORE, SPEED, Trial
from reformer_dist.training.failures import kind_and_reason
from reformer_dist.training.launcher import launch
from reformer_dist.tuning.maker import Maker


@dataclass(frozen=True)
class Job:
    """What every trial is given."""

    maker: Maker
    parent: str
    folder: str
    one_thread: bool
    """Whether each worker computes with one CPU thread, so that trials side by side do not slow each other; a configured
    `train.threads` is kept."""

    def config(self, trial: Trial) -> Config:
        """The configuration of a trial."""
        config = self.maker.config(trial)
        if not self.one_thread or config.train.threads is not None:
            return config
        return config.model_copy(update={"train": config.train.model_copy(update={"threads": 1})})


class Following:
    """One training in a thread, and its watcher.

    Every result is a dictionary. It has run_id, placement_group, step, metrics and problem, and the last one also has
    `ended` and checkpoint. A result at a validation or at the end has SCORE and SPEED too, by their own names; SPEED is the
    median of all readings so far. A result that only brings a line, under `told`, has no SCORE: a scheduler
    would count an old one as measured anew.
    """

    def __init__(self, job: Job, trial: Trial) -> None:
        self._config, self._parent = job.config(trial), job.parent
        self._results: queue.Queue[dict[str, Any]] = queue.Queue()
        self._end = threading.Event()
        self._speeds: list[float] = []
        self._known: dict[str, Any] = {"run_id": "", "placement_group": "", "metrics": {}, "step": 0, "problem": ""}
        self._thread = threading.Thread(target=self._train, daemon=True)

    def result(self) -> dict[str, Any]:
        """Wait for the next result; training starts with the first call."""
        if self._thread.ident is None:
            self._thread.start()
        return self._results.get()

    def end(self) -> None:
        """End the training in good order if it is under way, and wait for that."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()

    def _train(self) -> None:
        problem = "a fault of ours, whose traceback is in Ray's log of the trial's process"
        try:
            result = launch(self._config, parent_run=self._parent, watcher=self)
            self._known |= {"metrics": result.metrics, "checkpoint": result.checkpoint}
            problem = ""
        except (ConfigError, JobFailed) as error:
            problem = str(error)
        except OSError as error:
            problem = kind_and_reason(error)
        finally:
            self._known["problem"] = problem
            self._put(ended=True, done=True)

    def _put(self, **more: Any) -> None:
        metrics = dict(self._known["metrics"])
        if self._speeds:  # a single reading is at the mercy of what else the machine did
            metrics[SPEED] = median(self._speeds)
        scores = {name: metrics[name] for name in (SCORE, SPEED) if name in metrics}
        self._results.put({**self._known, "metrics": metrics, **scores, **more})

    def started(self, run_id: str) -> None:
        """See `Watcher`."""
        self._known["run_id"] = run_id

    def reserved(self, placement_group: str) -> None:
        """See `Watcher`."""
        self._known["placement_group"] = placement_group
        self._put()

    def reported(self, step: int, metrics: dict[str, float]) -> None:
        """See `Watcher`; the last step's validation is part of the end."""
        self._known["metrics"] |= metrics
        self._known["step"] = step
        if SPEED in metrics:
            self._speeds.append(metrics[SPEED])
        last = step == self._config.train.steps
        if not last and any(name.startswith("memory/") for name in metrics):  # the last of a validation's metrics
            self._put()

    def told(self, line: str) -> None:
        """See `Watcher`."""
        self._results.put({**self._known, "told": line})

    def wants_end(self) -> bool:
        """See `Watcher`."""
        return self._end.is_set()
