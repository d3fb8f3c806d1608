"""The optimizer section: which optimizer, and its schedule."""

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat

from reformer_dist.config.sections.section import Section


class OptimizerConfig(Section):
    """AdamW, or Muon beside it, and the schedule of both."""

    name: Literal["adamw", "muon"] = "muon"
    """adamw for all weights, or muon for the matrices of layers and adamw for the rest (embeddings, output layer, norms, biases)."""
    learning_rate: PositiveFloat = 1e-3
    """Peak learning rate of AdamW's weights."""
    matrix_learning_rate: PositiveFloat = 0.02
    """Peak learning rate of Muon's matrices."""
    schedule: Literal["constant", "linear", "cosine", "wsd"] = "cosine"
    """Learning rate after the warm-up: constant, or falling to final_fraction at train.steps; wsd is constant until decay_share is left."""
    warmup_steps: NonNegativeInt = 20
    """Steps in which the learning rate rises from zero to its peak."""
    decay_share: float = Field(0.3, gt=0.0, le=1.0)
    """Share of all steps, the last ones, in which wsd (warm-up, stable, decay) falls in a straight line."""
    final_fraction: float = Field(0.1, ge=0.0, le=1.0)
    """Last learning rate as a share of the peak."""
    betas: tuple[float, float] = (0.9, 0.98)
    """AdamW's decay rates of the first and second moment."""
    momentum: float = Field(0.95, ge=0.0, lt=1.0)
    """Muon's decay rate of its moment; the momentum is Nesterov's."""
    eps: PositiveFloat = 1e-8
    """AdamW's epsilon."""
    weight_decay: NonNegativeFloat = 0.01
    """Weight decay, decoupled from the gradient, on matrices only (not on biases, norms and position embeddings)."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients with a larger global norm are scaled down to it."""
