"""The sections around a training: tracking, sweeps, evaluation and generation."""

from typing import Any, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator
from pydantic_settings import CliToggleFlag

from reformer_dist.config.section import Section
from reformer_dist.config.space import parse_space


class TrackingConfig(Section):
    """Where MLflow keeps the runs."""

    uri: str | None = None
    """MLflow tracking URI, such as http://localhost:5000. By default an SQLite file under train.storage."""
    experiment: str = "reformer_dist"
    """MLflow experiment."""
    sample_tokens: NonNegativeInt = 256
    """Tokens of sampled text that a finished run keeps as an artifact; 0 for none."""


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

    @model_validator(mode="after")
    def _check(self) -> Self:
        parse_space(self.space)
        if len(set(self.objectives)) < len(self.objectives):
            raise ValueError(f"tune.objectives = {','.join(self.objectives)} names one twice; loss,speed works")
        return self


class EvaluationConfig(Section):
    """Scoring a checkpoint (jobs/evaluate.py)."""

    checkpoint: str = "latest"
    """Checkpoint folder or URL, or of train.run_name under train.storage: latest, or best (lowest validation loss)."""
    split: Literal["validation", "test", "train"] = "validation"
    """Documents to score."""
    max_sequences: PositiveInt | None = None
    """Score only so many sequences, spread evenly over the split. By default all."""


class GenerationConfig(Section):
    """Continuing a prompt (jobs/generate.py)."""

    checkpoint: str = "latest"
    """Checkpoint folder or URL, or of train.run_name under train.storage: latest, or best (lowest validation loss)."""
    prompt: str = "import "
    """Text to continue."""
    num_tokens: PositiveInt = 256
    """Tokens to add."""
    temperature: NonNegativeFloat = 1.0
    """Divides the logits; 0 always takes the likeliest token."""
    top_k: PositiveInt | None = None
    """Sample among the k likeliest tokens only."""
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    """Sample among the likeliest tokens that together have this probability."""
    seed: NonNegativeInt = 0
    """Seed of the sampling."""
