"""The sections around a training: tracking, sweeps, evaluation and generation."""

from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from reformer_dist.config.section import Section


class TrackingConfig(Section):
    """Where MLflow keeps the runs."""

    uri: str | None = None
    """MLflow tracking URI, such as http://localhost:5000. By default an SQLite file under train.storage."""
    experiment: str = "reformer_dist"
    """MLflow experiment."""
    sample_tokens: NonNegativeInt = 256
    """Tokens of sampled text that a finished run keeps as an artifact; 0 for none."""


class TuneConfig(Section):
    """A sweep with Ray Tune."""

    space: dict[str, tuple[Any, ...]] = Field({"model.num_buckets": (16, 64), "model.num_hashes": (1, 4)})
    """Fields and the values to try, every combination: {"model.num_hashes": [1, 4]}."""
    max_concurrent: PositiveInt | None = None
    """Trials at a time. By default as many as the cluster has room for."""


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
