"""What is trained on: the tokenizer, its vocabulary beside the model's, the sources, and sequences enough for a step."""

from reformer_dist.config import Config
from reformer_dist.data.feeding.sequences import source_plans
from reformer_dist.data.preparing.corpus import Corpus
from reformer_dist.data.preparing.preparation import plan_preparation
from reformer_dist.data.preparing.vocabulary import planned_vocab_size
from reformer_dist.data.reading.sources import list_files
from reformer_dist.errors import ConfigError
from reformer_dist.objectives.choice import OBJECTIVES, check_vocabulary, make_objective, needed_vocab_size
from reformer_dist.planning import places
from reformer_dist.planning.known import Known

WASTEFUL = 2
"""A vocabulary of more than so many times what is needed is told."""


def tokenizer(config: Config, known: Known) -> None:
    """Whether the tokenizer can be read; of a prepared corpus, whether there is one (its files are verified later)."""
    known.vocab_size = _tokenizer_size(config)


def _tokenizer_size(config: Config) -> int | None:
    if config.data.prepared is not None:
        return Corpus.open(config.data.prepared, verify=False).tokenizer_of().vocab_size
    if config.data.text is not None:  # or the objective has no field to read, which its own check tells
        return planned_vocab_size(config.data)
    return None


def with_vocab_size(config: Config) -> Config:
    """The configuration with as many tokens as the tokenizer has and the objective adds, unless the user gave a number.

    Where that cannot be known it is as it was; the checks tell why.
    """
    if "vocab_size" in config.model.model_fields_set or config.objective.name not in OBJECTIVES:
        return config
    try:
        size = _tokenizer_size(config)
    except (ConfigError, OSError):
        return config
    if size is None:
        return config
    model = config.model.model_copy(update={"vocab_size": needed_vocab_size(config, size)})
    return config.model_copy(update={"model": model})


def wasteful_vocabulary(config: Config, tokenizer_size: int) -> str:
    """A line about a vocabulary that is much larger than is needed, else nothing."""
    given, needed = config.model.vocab_size, needed_vocab_size(config, tokenizer_size)
    if given <= WASTEFUL * needed:
        return ""
    return f"model.vocab_size = {given:,}, of which {needed:,} are needed; left out it is {needed}"


def vocabulary(config: Config, known: Known) -> None:
    """Whether the model has all tokens of the vocabulary, as far as that is known."""
    if known.vocab_size is not None and config.objective.name in OBJECTIVES:
        check_vocabulary(config, known.vocab_size)


def sources(config: Config, known: Known) -> None:
    """Whether every source is there, with files that the tokenizer takes."""
    if config.data.prepared is not None and tokenizer in known.failed:
        return
    if known.failed & {tokenizer, places.storage}:  # planning would stop at what they have told
        _check_each(config.data.sources)
        return
    try:
        known.preparation = plan_preparation(config.data, config.train.storage)
    except ConfigError:
        _check_each(config.data.sources)
        raise


def _check_each(names: tuple[str, ...]) -> None:
    """Whether there are files at each source, looked at alone."""
    problems: list[str] = []
    for name in names:
        try:
            list_files([name])
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(*problems)


def sequences(config: Config, known: Known) -> None:
    """Whether the corpus has sequences of every source, and enough of them for a step."""
    assert known.corpus is not None
    plans = source_plans(known.corpus, "train", config.data, make_objective(config.objective).others)
    if empty := [source for source, plan in enumerate(plans) if not plan.num_sequences and len(plans) > 1]:
        raise ConfigError(f"data.weights: source {empty[0]} has no document in the train split; leave it out")
    num_sequences = sum(plan.num_sequences for plan in plans)
    if config.train.batch_size > num_sequences:
        raise ConfigError(
            f"train.batch_size = {config.train.batch_size} is more than the {num_sequences} sequences that data.sources"
            f" have for training; {num_sequences} works, or a smaller data.sequence_length, or more text"
        )
