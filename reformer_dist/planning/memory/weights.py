"""How many parameters a model has, and how many of them which optimizer trains; from its configuration."""

from reformer_dist.config import ModelConfig
from reformer_dist.planning.memory.cross import cross_weights
from reformer_dist.planning.memory.layers import (
    norm_weights,
    num_projections,
    output_weights,
    position_weights,
    stack_weights,
)


def num_weights(model: ModelConfig) -> int:
    """All parameters of the model."""
    own = stack_weights(model) + output_weights(model) + model.vocab_size * model.embed_dim + position_weights(model)
    if not model.encoder_layers:
        return own
    return own + len(model.layers) * cross_weights(model) + encoder_weights(model)


def encoder_weights(model: ModelConfig) -> int:
    """Parameters of the encoder of a model that has one: its layers, positions and norm."""
    encoder = model.encoder
    return stack_weights(encoder) + position_weights(encoder) + norm_weights(encoder, encoder.embed_dim)


def matrix_weights(model: ModelConfig) -> int:
    """Parameters of the matrices that Muon trains: those of all layers."""
    inner, E, F = model.num_heads * model.head_width, model.embed_dim, model.feed_forward_dim
    num_wide, layers = (3 if model.gated else 2), (*model.encoder_layers, *model.layers)
    cross = 4 * len(model.layers) * inner * E if model.encoder_layers else 0
    return cross + sum((num_projections(kind) + 1) * inner * E + num_wide * E * F for kind in layers)
