"""The tune section: a sweep."""

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt
from pydantic_settings import CliToggleFlag

from reformer_dist.config.sections.section import Section
from reformer_dist.config.space import parse_space
from reformer_dist.errors import ConfigError

Objective = Literal["loss", "speed", "memory"]


class TuneConfig(Section):
    """A sweep with Ray Tune."""

    space: dict[str, Any] = Field({"model.num_buckets": [16, 64], "model.num_hashes": [1, 4]})
    """Fields and what to try: a list of values, or choice, uniform, loguniform or int with points (for a grid) and when (the values of other fields with which it matters), such as {"model.num_hashes": [1, 4], "optimizer.learning_rate": {"loguniform": [1e-4, 1e-2]}}."""
    searcher: Literal["grid", "random", "optuna"] = "grid"
    """What chooses trials: every combination (grid), draws (random), or draws that learn from the trials before (optuna: TPE)."""
    trials: PositiveInt = 16
    """Trials of random and optuna; a grid has as many as there are combinations."""
    objectives: tuple[Objective, ...] = Field(("loss",), min_length=1)
    """What optuna searches for, one or several: loss (held-out bits a token), speed (tokens/s), memory (peak of a worker). The first one ranks the trials."""
    scheduler: Literal["none", "asha"] = "none"
    """What ends trials early: nothing, or asha (those that are behind at grace_steps, grace_steps x reduction, ...)."""
    grace_steps: PositiveInt | None = None
    """Steps of asha before a trial may be stopped. By default train.validate_every."""
    reduction: PositiveInt = Field(3, ge=2)
    """With asha: one in so many trials goes on."""
    seed: NonNegativeInt = 0
    """Seed of random and optuna."""
    max_concurrent: PositiveInt | None = None
    """Trials at a time. By default as many as the cluster has room for now; more wait for nodes that an autoscaler adds."""
    resume: CliToggleFlag[bool] = False
    """Go on with the newest sweep of train.run_name: trials that have ended are not repeated, the others go on from their checkpoints."""

    def problems(self) -> Iterator[str]:
        """What does not fit together among the fields."""
        try:
            parse_space(self.space)
        except ConfigError as error:
            yield from error.problems
        if len(set(self.objectives)) < len(self.objectives):
            yield f"tune.objectives = {','.join(self.objectives)} names one twice; loss,speed works"
