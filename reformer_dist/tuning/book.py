"""What becomes of a sweep's trials, on the driver: told to the search, the journal, MLflow and the terminal."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from reformer_dist.config import Config
from reformer_dist.ray_session import free
from reformer_dist.storage.stores import below
from reformer_dist.tracking import runs
from reformer_dist.tracking.trials import Trial, write_journal
from reformer_dist.training import failures
from reformer_dist.tuning.search import Search

Report = Callable[[str], None]
"""Takes a line of progress."""


class Book:
    """Follows the trials of a sweep; trials are told apart by their index, results are those of `Following`.

    Args:
        config: what the trials share.
        search: learns what comes of each trial.
        folder: the sweep's, for its journal.
        run: MLflow run of the sweep.
        report: takes a line for whatever happens.
    """

    def __init__(self, config: Config, search: Search, folder: str, run: runs.Run, report: Report) -> None:
        self.folder, self.run_id, self.report = folder, run.id, report
        self._config, self._search, self._run = config, search, run
        self._groups: dict[int, str] = {}
        self._write()

    def started(self, index: int) -> None:
        """A trial begins."""
        self._tell(index, "started")
        self._write()

    def starts_again(self, index: int, error: str) -> None:
        """A trial whose process was lost begins again; what its workers had reserved is given back."""
        self._free(index)
        self._tell(index, f"{self._why_lost(index, error)}; it starts again")
        self._write()

    def reported(self, index: int, result: Mapping[str, Any]) -> None:
        """A trial has reported."""
        if "told" in result:
            self._tell(index, result["told"])
        if result["placement_group"]:
            self._groups[index] = result["placement_group"]
        if result["run_id"] != self._search.trials[index].run_id:
            self._update(index, result)
            self._write()

    def ended(self, index: int, result: Mapping[str, Any]) -> None:
        """A trial has finished, has failed by itself, or was stopped."""
        self._groups.pop(index, None)
        status = "stopped" if not result.get("ended") else "failed" if result["problem"] else "finished"
        self._update(index, result, status=status, problem=result["problem"])
        self._close_trial(index)

    def lost(self, index: int, result: Mapping[str, Any], error: str) -> None:
        """A trial's process was lost too often."""
        self._free(index)
        allowed = f"as often as train.max_failures = {self._config.train.max_failures} allows"
        self._update(index, result, status="failed", problem=f"{self._why_lost(index, error)}; {allowed}")
        self._close_trial(index)

    def close(self) -> None:
        """Mark the runs of trials that were stopped early, and leave no run open that nobody goes on with."""
        for trial in self._search.trials.values():
            if trial.status == "stopped":
                self._run.close_other(trial.run_id, "FINISHED", stopped_at=int(trial.metrics["step"]))
        self._run.close_children()  # of processes that were lost before their first checkpoint, in this sweep or before it

    def _update(self, index: int, result: Mapping[str, Any], **changes: Any) -> None:
        ours: Trial = self._search.trials[index]
        metrics = {**ours.metrics, **result.get("metrics", {}), "step": float(result.get("step", 0))}
        checkpoint = result.get("checkpoint", ours.checkpoint)
        known = {"run_id": result.get("run_id") or ours.run_id, "metrics": metrics, "checkpoint": checkpoint}
        self._search.trials[index] = replace(ours, **known, **changes)

    def _close_trial(self, index: int) -> None:
        ours = self._search.trials[index]
        self._search.tell(ours)
        self._write()
        score, speed = ours.objective("loss"), ours.objective("speed")
        figures = f"{score:.3f} bits a token, {speed:,.0f} tokens/s" if score and speed else ""
        stopped = f"stopped at step {ours.metrics.get('step', 0):.0f}: {figures}"
        self._tell(index, {"finished": figures, "stopped": stopped}.get(ours.status, ours.status))

    def _why_lost(self, index: int, error: str) -> str:
        """Why a trial's process was lost, and where all that Ray says of it is kept, beside the checkpoints."""
        folder = below(self._config.train.storage, self._search.trials[index].run_name)
        return f"{failures.lost_process(error)} (all of it: {failures.keep(error, folder)})"

    def _free(self, index: int) -> None:
        """Give back what the workers of a lost trial had reserved, if there was any."""
        group = self._groups.pop(index, None)
        if group is not None:
            free(group)

    def _tell(self, index: int, what: str) -> None:
        ours = self._search.trials[index]
        self.report(f"trial {ours.number} ({ours.name}): {what}")

    def _write(self) -> None:
        write_journal(self.folder, self._config, self.run_id, self._search.trials.values())
