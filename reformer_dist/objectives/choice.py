"""The objectives by name, and what must hold between one of them and the rest of a configuration."""

from collections.abc import Callable, Mapping

from reformer_dist.config import Config, ObjectiveConfig
from reformer_dist.config.sections.data import field_named
from reformer_dist.data.preparing.corpus import Corpus
from reformer_dist.errors import ConfigError
from reformer_dist.objectives.copy import Copy
from reformer_dist.objectives.labels import Labels
from reformer_dist.objectives.masked import Masked
from reformer_dist.objectives.next_token import NextToken
from reformer_dist.objectives.objective import Objective
from reformer_dist.objectives.pairs import Pairs
from reformer_dist.objectives.prefix import Prefix
from reformer_dist.objectives.spans import Spans

OBJECTIVES: dict[str, Callable[[ObjectiveConfig], Objective]] = {
    "next_token": NextToken,
    "masked": Masked,
    "copy": Copy,
    "prefix": Prefix,
    "pairs": Pairs,
    "labels": Labels,
    "spans": Spans,
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
    has_source = objective.others.has_source
    if has_source and not config.model.encoder_layers:
        raise ConfigError(
            f"objective.name = {objective.name} has a source for an encoder to read, and model.encoder_layers are none;"
            " local,lsh works"
        )
    if not has_source and config.model.encoder_layers:
        others = [name for name, make in OBJECTIVES.items() if make(config.objective).others.has_source]
        raise ConfigError(
            f"model.encoder_layers = {','.join(config.model.encoder_layers)} have no source to read with objective.name ="
            f" {objective.name}; {' or '.join(others)} works, or leave them out"
        )


def check_texts(config: Config) -> None:
    """Whether texts can be written as `evaluation.text_scores` asks.

    Raises:
        ConfigError: the objective has no source to write from.
    """
    names = ",".join(config.evaluation.text_scores)
    if names and make_objective(config.objective).others.source is None:
        raise ConfigError(
            f"evaluation.text_scores = {names} are of texts written from sources, which objective.name ="
            f" {config.objective.name} has none of; objective.name = pairs has, or leave them out"
        )


def check_vocabulary(config: Config, sizes: Mapping[str, int]) -> None:
    """Whether the model knows all tokens of the tokenizers and those that the objective adds.

    Args:
        config: the objective, the model and the fields.
        sizes: tokens of each field of the objective's `vocabularies`, as far as they are known.

    Raises:
        ConfigError: it knows fewer.
    """
    needed = needed_vocab_size(config, sizes)
    if config.model.vocab_size < needed:
        largest = max(sizes, key=lambda field: sizes[field])
        tokenizer = _tokenizer_in_words(config, largest)
        objective = f" with objective.name = {config.objective.name}" if needed > sizes[largest] else ""
        raise ConfigError(
            f"model.vocab_size = {config.model.vocab_size} is less than {tokenizer} needs{objective}; {needed} works"
        )


def vocab_sizes(objective: Objective, corpus: Corpus) -> dict[str, int]:
    """Tokens of each field of a corpus that a model of the objective must know."""
    return {field: corpus.tokenizer_of(field).vocab_size for field in objective.vocabularies}


def needed_vocab_size(config: Config, sizes: Mapping[str, int]) -> int:
    """Tokens of the largest vocabulary and those that the objective adds."""
    return max(sizes.values()) + make_objective(config.objective).num_extra_tokens


def _tokenizer_in_words(config: Config, field: str) -> str:
    fields = config.data.record_fields
    field = field_named(field, fields)
    if field not in fields:  # of a corpus that is named by data.prepared
        return f"the field {field} of the corpus"
    return f"{config.data.setting_of(field, 'tokenizer')} = {fields[field].tokenizer}"
