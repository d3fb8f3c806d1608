"""The evaluation section: scoring a checkpoint."""

from typing import Literal

from pydantic import PositiveInt

from reformer_dist.config.sections.section import Section


class EvaluationConfig(Section):
    """Scoring a checkpoint (jobs/evaluate.py)."""

    checkpoint: str = "latest"
    """Checkpoint folder or URL, or of train.run_name under train.storage: latest, or best (lowest validation loss)."""
    split: Literal["validation", "test", "train"] = "validation"
    """Documents to score."""
    max_sequences: PositiveInt | None = None
    """Score only so many sequences, spread evenly over the split. By default all."""
