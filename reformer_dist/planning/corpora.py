"""What is trained on: the tokenizer, its vocabulary beside the model's, the sources, and sequences enough for a step."""

from collections.abc import Mapping

import numpy as np

from reformer_dist.config import Config
from reformer_dist.config.sections.data import TEXT, field_named
from reformer_dist.data.feeding.sequences import source_plans
from reformer_dist.data.preparing.corpus import Corpus
from reformer_dist.data.preparing.manifest import SPLITS
from reformer_dist.data.preparing.preparation import plan_preparation
from reformer_dist.data.preparing.vocabulary import planned_vocab_size
from reformer_dist.data.reading.finding.sources import list_files
from reformer_dist.errors import ConfigError
from reformer_dist.objectives.choice import OBJECTIVES, check_vocabulary, make_objective, needed_vocab_size
from reformer_dist.planning import places
from reformer_dist.planning.known import Known

WASTEFUL = 2
"""A vocabulary of more than so many times what is needed is told."""


def tokenizer(config: Config, known: Known) -> None:
    """Whether the tokenizer can be read; of a prepared corpus, whether there is one (its files are verified later)."""
    known.vocab_sizes = _vocab_sizes(config)


def _vocab_sizes(config: Config) -> Mapping[str, int]:
    """Tokens of each field that the model must know; none where one is missing, which the objective's own check tells."""
    fields = make_objective(config.objective).vocabularies if config.objective.name in OBJECTIVES else (TEXT,)
    if config.data.prepared is not None:
        corpus = Corpus.open(config.data.prepared, verify=False)
        return {field: corpus.tokenizer_of(field).vocab_size for field in fields}
    given = config.data.record_fields
    if any(field_named(field, given) not in given for field in fields):
        return {}
    return {field: planned_vocab_size(config.data, field) for field in fields}


def with_vocab_size(config: Config) -> Config:
    """The configuration with as many tokens as there are and the objective adds, unless the user gave a number.

    Where that cannot be known it is as it was; the checks tell why.
    """
    if "vocab_size" in config.model.model_fields_set or config.objective.name not in OBJECTIVES:
        return config
    try:
        sizes = _vocab_sizes(config)
    except (ConfigError, OSError):
        return config
    if not sizes:
        return config
    model = config.model.model_copy(update={"vocab_size": needed_vocab_size(config, sizes)})
    return config.model_copy(update={"model": model})


def wasteful_vocabulary(config: Config, sizes: Mapping[str, int]) -> str:
    """A line about a vocabulary that is much larger than is needed for fields of these sizes, else nothing."""
    given, needed = config.model.vocab_size, needed_vocab_size(config, sizes)
    if given <= WASTEFUL * needed:
        return ""
    return f"model.vocab_size = {given:,}, of which {needed:,} are needed; left out it is {needed}"


def vocabulary(config: Config, known: Known) -> None:
    """Whether the model has all tokens of the vocabularies, as far as they are known."""
    if known.vocab_sizes and config.objective.name in OBJECTIVES:
        check_vocabulary(config, known.vocab_sizes)


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
    _check_lengths(config, known.corpus)
    num_sequences = sum(plan.num_sequences for plan in plans)
    if config.train.batch_size > num_sequences:
        raise ConfigError(
            f"train.batch_size = {config.train.batch_size} is more than the {num_sequences} sequences that data.sources"
            f" have for training; {num_sequences} works, or a smaller data.sequence_length, or more text"
        )


def _check_lengths(config: Config, corpus: Corpus) -> None:
    """Whether documents that must be whole fit into sequences."""
    data, source = config.data, make_objective(config.objective).others.source
    if source is None or data.too_long == "skip":
        return
    for field, setting, most in (
        (source, "source_length", data.longest_source),
        (field_named(TEXT, corpus.fields), "sequence_length", data.sequence_length),
    ):
        positions = np.concatenate([corpus.document_lengths(split, field) + 1 for split in SPLITS])
        if num_long := int((positions > most).sum()):
            raise ConfigError(
                f"data.{setting} = {most:,} is less than the longest {field} needs, with {num_long:,} of"
                f" {len(positions):,} documents past it; {positions.max()} works, or data.too_long = skip"
            )
