"""The objectives by name, and what must hold between one of them and the rest of a configuration."""

from collections.abc import Callable

from reformer_dist.config import Config, ObjectiveConfig
from reformer_dist.config.sections.data import TEXT, field_named
from reformer_dist.errors import ConfigError
from reformer_dist.objectives.copy import Copy
from reformer_dist.objectives.masked import Masked
from reformer_dist.objectives.next_token import NextToken
from reformer_dist.objectives.objective import Objective
from reformer_dist.objectives.pairs import Pairs
from reformer_dist.objectives.prefix import Prefix

OBJECTIVES: dict[str, Callable[[ObjectiveConfig], Objective]] = {
    "next_token": NextToken,
    "masked": Masked,
    "copy": Copy,
    "prefix": Prefix,
    "pairs": Pairs,
}


def make_objective(settings: ObjectiveConfig) -> Objective:
    """The objective that the configuration names.

    Raises:
        ConfigError: there is none of that name.
    """
    if settings.name not in OBJECTIVES:
        raise ConfigError(f"objective.name = {settings.name} is none of {', '.join(OBJECTIVES)}; next_token works")
    return OBJECTIVES[settings.name](settings)


def check_objective(config: Config) -> None:
    """Whether the objective and the model can mean something together.

    Raises:
        ConfigError: there is no such objective, or it needs a model that looks to the other side, or an encoder.
    """
    objective, causal = make_objective(config.objective), config.model.causal
    if objective.causal not in (None, causal):
        others = [name for name, make in OBJECTIVES.items() if make(config.objective).causal in (None, causal)]
        raise ConfigError(
            f"model.causal = {causal} cannot be trained with objective.name = {objective.name};"
            f" model.causal = {objective.causal} works, or objective.name = {' or '.join(others)}"
        )
    if objective.others.source is not None and not config.model.encoder_layers:
        raise ConfigError(
            f"objective.name = {objective.name} has a source for an encoder to read, and model.encoder_layers are none;"
            " local,lsh works"
        )
    if objective.others.source is None and config.model.encoder_layers:
        raise ConfigError(
            f"model.encoder_layers = {','.join(config.model.encoder_layers)} have no source to read with objective.name ="
            f" {objective.name}; pairs works, or leave them out"
        )


def check_vocabulary(config: Config, tokenizer_size: int) -> None:
    """Whether the model knows all tokens of the tokenizer and those that the objective adds.

    Raises:
        ConfigError: it knows fewer.
    """
    needed = needed_vocab_size(config, tokenizer_size)
    num_extra = needed - tokenizer_size
    if config.model.vocab_size < needed:
        assert config.data.text is not None, "it has been tokenised"
        name = field_named(TEXT, config.data.record_fields)
        tokenizer = f"{config.data.setting_of(name, 'tokenizer')} = {config.data.text.tokenizer}"
        objective = f" with objective.name = {config.objective.name}" if num_extra else ""
        raise ConfigError(
            f"model.vocab_size = {config.model.vocab_size} is less than {tokenizer} needs{objective}; {needed} works"
        )


def needed_vocab_size(config: Config, tokenizer_size: int) -> int:
    """Tokens of the tokenizer and those that the objective adds."""
    return tokenizer_size + make_objective(config.objective).num_extra_tokens
