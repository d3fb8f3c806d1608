"""Sweeps and trials to test with: a configuration with a space, its search, and trials that have ended."""

from dataclasses import replace
from pathlib import Path

from reformer_dist.config import Config, load_config
from reformer_dist.planning.preflight import Preflight
from reformer_dist.tracking.trials import Trial
from reformer_dist.tuning.maker import Maker
from reformer_dist.tuning.search import Search


def config(storage: Path, space: object, **fields: object) -> Config:
    return load_config(None, {"tune.space": space, "train.storage": str(storage), **fields})


def search_of(asked: Config, earlier: tuple[Trial, ...] = ()) -> Search:
    return Search(
        asked.tune, Maker(asked, "s-1", [lambda trial: Preflight(trial).of_trial()]), earlier, lambda line: None
    )


def finished(trial: Trial, bits: float) -> Trial:
    metrics = {"validation/bits_per_token": bits, "train/tokens_per_second": 10.0 * bits, "memory/worker_0_mib": 9.0}
    return replace(trial, status="finished", metrics=metrics)
