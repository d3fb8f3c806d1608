"""What is learned: whether the objective goes with the model, and whether the corpus has the fields that it reads."""

from reformer_dist.config import Config
from reformer_dist.data.feeding.sequences import check_fields
from reformer_dist.objectives.choice import check_objective, make_objective
from reformer_dist.planning.known import Known


def goes_with_model(config: Config, known: Known) -> None:
    """Whether there is such an objective, and whether it can mean anything for the model."""
    check_objective(config)


def fields(config: Config, known: Known) -> None:
    """Whether the corpus has the fields that examples are made of."""
    assert known.corpus is not None
    check_fields(make_objective(config.objective), known.corpus)
