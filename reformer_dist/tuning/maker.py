"""Making the configurations of a sweep's trials.

In: what the trials share and what each has of its own. Out: a `Config` for each, or why it cannot be trained here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from reformer_dist.config import Config, field_names, flatten, load_config
from reformer_dist.errors import ConfigError
from reformer_dist.tracking.trials import Trial

SECTIONS = ("data", "model", "objective", "parallel", "optimizer", "train")
"""Sections whose fields can be swept."""


class Maker:
    """Makes the configuration of a trial from what it has of its own.

    Args:
        config: what the trials share.
        prefix: beginning of their runs' names.
        checks: each raises ConfigError where a configuration cannot be trained here.
    """

    def __init__(self, config: Config, prefix: str, checks: Sequence[Callable[[Config], None]]) -> None:
        self._base = dict(flatten(config.model_dump(exclude_unset=True)))
        self._prefix, self._checks = prefix, checks

    def config(self, trial: Trial) -> Config:
        """The whole configuration.

        Raises:
            ConfigError: the values do not fit together or cannot be trained here.
        """
        config = load_config(None, {**self._base, **trial.values, "train.run_name": trial.run_name})
        for check in self._checks:
            check(config)
        return config

    def trial(self, index: int, values: Mapping[str, Any]) -> Trial:
        """A trial that waits, or an impossible one with its problem."""
        trial = Trial(index, dict(values), f"{self._prefix}-{index:02d}")
        try:
            self.config(trial)
        except ConfigError as error:
            return replace(trial, run_name="", status="impossible", problem=str(error))
        return trial


def check_space(config: Config) -> None:
    """Whether the space names fields that a training has.

    Raises:
        ConfigError: an empty space, or a field that does not exist or cannot be swept.
    """
    example = '{"model.num_hashes": [1, 4]} works'
    if not config.tune.space:
        raise ConfigError(f"tune.space = {{}} names no field; {example}")
    for name in config.tune.space:
        if name not in field_names():
            load_config(None, {name: None})  # names the nearest field
        section = name.split(".")[0]
        if section not in SECTIONS or name in ("train.run_name", "train.storage"):
            raise ConfigError(f"tune.space names {name}, which does not change a training; {example}")
