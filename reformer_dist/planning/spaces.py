"""What a sweep varies: whether `tune.space` names fields that a training has, in a form that the searcher takes."""

from itertools import islice

from reformer_dist.config import Config, field_names, load_config
from reformer_dist.config.space import combinations, parse_space
from reformer_dist.errors import ConfigError
from reformer_dist.planning.known import Known

SECTIONS = ("data", "model", "objective", "parallel", "optimizer", "train")
"""Sections whose fields can be swept."""
EXAMPLE = '{"model.num_hashes": [1, 4]} works'


def fields(config: Config, known: Known) -> None:
    """Whether the space names fields, and only such as change a training."""
    if not config.tune.space:
        raise ConfigError(f"tune.space = {{}} names no field; {EXAMPLE}")
    problems: list[str] = []
    for name in config.tune.space:
        if name not in field_names():
            try:
                load_config(None, {name: None})  # tells the nearest field
            except ConfigError as error:
                problems += error.problems
        elif name.split(".")[0] not in SECTIONS or name in ("train.run_name", "train.storage"):
            problems.append(f"tune.space names {name}, which does not change a training; {EXAMPLE}")
    if problems:
        raise ConfigError(*problems)


def grid(config: Config, known: Known) -> None:
    """Whether a grid, if that is asked for, can be made of the space: it needs points of every interval."""
    if config.tune.searcher == "grid":
        list(islice(combinations(parse_space(config.tune.space)), 1))
