"""Making the configurations of a sweep's trials.

In: what the trials share and what each has of its own. Out: a `Config` for each, or why it cannot be trained here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from reformer_dist.config import Config, flatten, load_config
from reformer_dist.errors import ConfigError
from reformer_dist.tracking.trials import Trial


class Maker:
    """Makes the configuration of a trial from what it has of its own.

    Args:
        config: what the trials share.
        prefix: beginning of their runs' names.
        checks: each raises ConfigError where a configuration cannot be trained here; asked of every new trial.
    """

    def __init__(self, config: Config, prefix: str, checks: Sequence[Callable[[Config], None]]) -> None:
        self._base = dict(flatten(config.model_dump(exclude_unset=True)))
        self._prefix, self._checks = prefix, checks

    def config(self, trial: Trial) -> Config:
        """The whole configuration.

        Raises:
            ConfigError: the values do not fit together.
        """
        return load_config(None, {**self._base, **trial.values, "train.run_name": trial.run_name})

    def trial(self, index: int, values: Mapping[str, Any]) -> Trial:
        """A trial that waits, or an impossible one with its problem."""
        trial = Trial(index, dict(values), f"{self._prefix}-{index:02d}")
        try:
            config = self.config(trial)
            for check in self._checks:
                check(config)
        except ConfigError as error:
            return replace(trial, run_name="", status="impossible", problem=str(error))
        return trial
