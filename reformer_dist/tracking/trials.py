"""What a sweep knows of its trials, and its journal, from which a killed sweep goes on.

In and out: `Trial`s. The journal is one JSON file in the sweep's folder, written whole whenever a trial begins or ends.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from reformer_dist.config import Config, flatten
from reformer_dist.errors import ConfigError
from reformer_dist.storage.stores import open_store

SCORE = "validation/bits_per_token"
SPEED = "train/tokens_per_second"
CAUGHT = "hashing/caught"
KEYS_SEEN = "hashing/keys_seen"
JOURNAL = "sweep.json"

Status = Literal["waiting", "finished", "stopped", "failed", "impossible"]
RANKS: dict[Status, int] = {"finished": 0, "stopped": 1, "failed": 2, "waiting": 3, "impossible": 4}


@dataclass(frozen=True)
class Trial:
    """One choice of the space.

    Attributes:
        index: its number in the sweep.
        values: the swept fields, by dotted name.
        run_name: name of its training; empty where it is impossible.
        status: what became of it; stopped: it was behind others and was ended early.
        problem: why it is impossible or why it failed.
        run_id: its MLflow run, once it has begun.
        metrics: its last metrics.
        checkpoint: its last checkpoint.
    """

    index: int
    values: Mapping[str, Any]
    run_name: str = ""
    status: Status = "waiting"
    problem: str = ""
    run_id: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    checkpoint: str = ""

    @property
    def name(self) -> str:
        """The swept fields and their values in one line."""
        return ", ".join(f"{short(name)} {shown(value)}" for name, value in self.values.items())

    @property
    def number(self) -> int:
        """What people call it, from 1."""
        return self.index + 1

    @property
    def has_ended(self) -> bool:
        """Whether there is nothing left to do for it."""
        return self.status != "waiting"

    def objective(self, name: str) -> float | None:
        """Value of an objective (loss: bits, speed: tokens/s, memory: MiB of the largest worker), None while unknown."""
        if name == "memory":
            peaks = [value for metric, value in self.metrics.items() if metric.startswith("memory/")]
            return max(peaks, default=None)
        return self.metrics.get(SCORE if name == "loss" else SPEED)


@dataclass(frozen=True)
class Sweep:
    """What a sweep leaves.

    Attributes:
        trials: best first, those with a problem last.
        run_id: the MLflow run whose children are the trials' runs.
        tracking_uri: where MLflow keeps them.
        url_hint: how to look at them.
    """

    trials: tuple[Trial, ...]
    run_id: str
    tracking_uri: str
    url_hint: str

    def rows(self) -> list[list[str]]:
        """The table for the terminal: its header, then a row for each trial."""
        fields = list(dict.fromkeys(name for trial in self.trials for name in trial.values))
        measured = ("held-out bits", "tokens/s", "peak MiB", "mass caught")
        rows = [["trial", *(short(name) for name in fields), *measured, "status", "MLflow run"]]
        for trial in self.trials:
            values = [shown(trial.values[name]) if name in trial.values else "-" for name in fields]
            rows.append([str(trial.number), *values, *_figures(trial), trial.status, trial.run_id[:8]])
        return rows


def _figures(trial: Trial) -> list[str]:
    if trial.status not in ("finished", "stopped"):
        return [""] * 4
    found = [trial.objective("loss"), trial.objective("speed"), trial.objective("memory"), trial.metrics.get(CAUGHT)]
    formats = ("{:.4f}", "{:,.0f}", "{:,.0f}", "{:.3f}")
    return ["-" if x is None else text.format(x) for x, text in zip(found, formats, strict=True)]


def short(name: str) -> str:
    """A field's name without its section."""
    return name.rpartition(".")[2]


def shown(value: Any) -> str:
    """A value of the space as people read it."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def ranked(trials: Iterable[Trial], objective: str = "loss") -> tuple[Trial, ...]:
    """The finished trials by an objective, best first, then the stopped, the failed and the impossible ones."""
    sign = -1.0 if objective == "speed" else 1.0

    def place(trial: Trial) -> tuple[int, float]:
        value = trial.objective(objective)
        return RANKS[trial.status], float("inf") if value is None else sign * value

    return tuple(sorted(trials, key=place))


def write_journal(folder: str, config: Config, run_id: str, trials: Iterable[Trial]) -> None:
    """Keep what is known; the file is replaced as a whole."""
    kept = {"config": config.model_dump(mode="json"), "run_id": run_id, "trials": [asdict(trial) for trial in trials]}
    store = open_store(folder)
    store.filesystem.create_dir(store.path, recursive=True)
    if store.is_local:
        with store.filesystem.open_output_stream(store.child(f"{JOURNAL}.new")) as stream:
            stream.write(json.dumps(kept, indent=1).encode())
        store.filesystem.move(store.child(f"{JOURNAL}.new"), store.child(JOURNAL))
    else:  # an object store shows a new object only when it is whole
        with store.filesystem.open_output_stream(store.child(JOURNAL)) as stream:
            stream.write(json.dumps(kept).encode())


def read_journal(folder: str, config: Config) -> tuple[str, list[Trial]]:
    """The parent's MLflow run and the trials of a sweep with this configuration.

    Raises:
        ConfigError: there is no journal, or it is of another configuration.
    """
    store = open_store(folder)
    try:
        with store.filesystem.open_input_stream(store.child(JOURNAL)) as stream:
            kept = json.loads(stream.read())
    except FileNotFoundError:
        raise ConfigError(f"--tune.resume: {folder} has no {JOURNAL}; start the sweep without --tune.resume") from None
    now, then = (dict(flatten(tree)) for tree in (json.loads(config.model_dump_json()), kept["config"]))
    then = dict(flatten(json.loads(Config().model_dump_json()))) | then  # fields that are younger than the journal
    free = ("tune.resume", "tune.max_concurrent", "tune.trials")
    for name in sorted({*now, *then} - set(free)):
        if now.get(name) != then.get(name):
            raise ConfigError(
                f"--tune.resume: {name} = {now.get(name)}, but the sweep in {folder} has {then.get(name)}; that works,"
                " or start a new sweep without --tune.resume"
            )
    return kept["run_id"], [Trial(**trial) for trial in kept["trials"]]
