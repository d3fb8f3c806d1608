"""What a preflight knows beside the configuration, and what one of its checks is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from reformer_dist.checkpoints.starting_point import Place
from reformer_dist.config import Config
from reformer_dist.data.preparing.corpus import Corpus
from reformer_dist.data.preparing.preparation import Preparation


@dataclass
class Known:
    """What is known so far; what one check finds out is there for those after it, and for the driver.

    Attributes:
        joins: whether Ray runs already, here or as a cluster; otherwise the job starts one on this machine.
        vocab_sizes: tokens that the vocabulary of each field that the model must know has, or will have at most.
        preparation: what there is to prepare of the sources.
        resources: what a running Ray has, by name.
        corpus: the prepared corpus.
        place: where training starts.
        failed: checks that found a mistake.
    """

    joins: bool = False
    vocab_sizes: Mapping[str, int] = field(default_factory=dict)
    preparation: Preparation | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    corpus: Corpus | None = None
    place: Place | None = None
    failed: set["Check"] = field(default_factory=set)


Check = Callable[[Config, Known], None]
"""Looks for one kind of mistake and raises a ConfigError with a line for each that it finds.

A check that needs what another one looks at leaves out what that one has told: see `Known.failed`.
"""
