"""What is learned: whether the objective goes with the model, and whether there are the fields that it reads."""

from reformer_dist.config import Config
from reformer_dist.config.sections.data import field_named
from reformer_dist.data.feeding.sequences import check_fields
from reformer_dist.errors import ConfigError
from reformer_dist.objectives.choice import check_objective, make_objective
from reformer_dist.planning.known import Known


def goes_with_model(config: Config, known: Known) -> None:
    """Whether there is such an objective, and whether it can mean anything for the model."""
    check_objective(config)


def goes_with_records(config: Config, known: Known) -> None:
    """Whether records have the fields that examples are made of; of a prepared corpus see `fields`."""
    if config.data.prepared is not None or goes_with_model in known.failed:
        return
    objective = make_objective(config.objective)
    needed, given = [*objective.fields, *objective.others.names], config.data.record_fields
    missing = [field for field in needed if field_named(field, given) not in given]
    if missing:
        names = ", ".join(config.data.record_fields)
        works = ", ".join(f'"{field}": {{"tokenizer": "bytes"}}' for field in needed)
        works = f"{{{works}}} works{'' if objective.others.names else ', or leave data.fields out'}"
        raise ConfigError(
            f"data.fields = {names} has no {missing[0]}, which objective.name = {config.objective.name} reads; {works}"
        )


def fields(config: Config, known: Known) -> None:
    """Whether the corpus has the fields that examples are made of; then the size of its vocabulary is known."""
    assert known.corpus is not None
    check_fields(make_objective(config.objective), known.corpus)
    known.vocab_size = known.corpus.tokenizer_of().vocab_size
