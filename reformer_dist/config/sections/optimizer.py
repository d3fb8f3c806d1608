"""The optimizer section: AdamW and its schedule."""

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat

from reformer_dist.config.sections.section import Section


class OptimizerConfig(Section):
    """AdamW and its schedule."""

    learning_rate: PositiveFloat = 1e-3
    """Peak learning rate."""
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """Learning rate after the warm-up: constant, or falling to final_fraction at train.steps."""
    warmup_steps: NonNegativeInt = 20
    """Steps in which the learning rate rises from zero to its peak."""
    final_fraction: float = Field(0.1, ge=0.0, le=1.0)
    """Last learning rate as a share of the peak."""
    betas: tuple[float, float] = (0.9, 0.98)
    """AdamW's decay rates of the first and second moment."""
    eps: PositiveFloat = 1e-8
    """AdamW's epsilon."""
    weight_decay: NonNegativeFloat = 0.01
    """AdamW's weight decay, on matrices only (not on biases, norms and position embeddings)."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients with a larger global norm are scaled down to it."""
