"""Which model a configuration means: a language model, or one with an encoder."""

from reformer_dist.config import ModelConfig
from reformer_dist.model.budget import Budget
from reformer_dist.model.encoder_decoder import EncoderDecoder
from reformer_dist.model.reformer import ReformerLM


def make_model(config: ModelConfig, budget: Budget | None = None) -> ReformerLM | EncoderDecoder:
    """The model, with weights drawn from `config.seed`."""
    return (EncoderDecoder if config.encoder_layers else ReformerLM)(config, budget)
