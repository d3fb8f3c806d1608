"""What is learned: whether the objective goes with the model, and whether there are the fields that it reads."""

import json

from reformer_dist.config import Config
from reformer_dist.config.sections.data import TEXT, field_named
from reformer_dist.data.feeding.rewriting import check_lengths
from reformer_dist.data.feeding.sequences import check_fields
from reformer_dist.errors import ConfigError
from reformer_dist.objectives.choice import check_objective, check_texts, make_objective, vocab_sizes
from reformer_dist.planning.known import Known


def goes_with_model(config: Config, known: Known) -> None:
    """Whether there is such an objective, and whether it can mean anything for the model."""
    check_objective(config)
    check_texts(config)


def goes_with_lengths(config: Config, known: Known) -> None:
    """Whether sequences are long enough for what the objective makes of a text."""
    if goes_with_model not in known.failed and (rewriting := make_objective(config.objective).others.rewriting):
        check_lengths(rewriting, config.data)


def goes_with_records(config: Config, known: Known) -> None:
    """Whether records have the fields that examples are made of; of a prepared corpus see `fields`."""
    if config.data.prepared is not None or goes_with_model in known.failed:
        return
    objective = make_objective(config.objective)
    needed, given = [*objective.fields, *objective.others.names], config.data.record_fields
    may_be_target = objective.others.source is not None
    missing = [each for each in needed if (field_named(each, given) if may_be_target else each) not in given]
    if missing:
        names = ", ".join(config.data.record_fields)
        aligned = [field for field in objective.fields if field != TEXT]
        entries = {field: {"aligned_with": TEXT} if field in aligned else {"tokenizer": "bytes"} for field in needed}
        is_text_enough = not aligned and not objective.others.names
        works = f"{json.dumps(entries)} works{', or leave data.fields out' if is_text_enough else ''}"
        raise ConfigError(
            f"data.fields = {names} has no {missing[0]}, which objective.name = {config.objective.name} reads; {works}"
        )


def fields(config: Config, known: Known) -> None:
    """Whether the corpus has the fields that examples are made of; then the sizes of their vocabularies are known."""
    assert known.corpus is not None
    objective = make_objective(config.objective)
    check_fields(objective, known.corpus)
    known.vocab_sizes = vocab_sizes(objective, known.corpus)
    objective.check(known.corpus)
