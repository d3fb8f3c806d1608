"""What a run would go on with otherwise than it began: for each field, by dotted name, what it is and was."""

from collections.abc import Iterable, Mapping

import torch

from reformer_dist.config import Config, ModelConfig, OptimizerConfig
from reformer_dist.model.choice import make_model

SPEED_ONLY = {"feed_forward_chunk", "loss_chunk", "reversible", "keep", "attention_kernel"}
"""Fields of the model section that change its memory and speed but not what it is."""
START_ONLY = {"embedding_std", "output_scale"}
"""Those that change only the weights that a training begins with."""
CURVE: Mapping[str, tuple[str, ...]] = {
    "train": ("batch_size", "seed", "dtype"),
    "data": (
        "sequence_length",
        "source_length",
        "too_long",
        "order",
        "weights",
        "reset_positions",
        "attend_across_documents",
    ),
    "optimizer": tuple(name for name in OptimizerConfig.model_fields if name != "name"),
}
"""Fields by section that decide the curve from any step on. Steps are not among them: more of them go on."""
ALLOWABLE = (
    *(f"{section}.{name}" for section, fields in CURVE.items() for name in fields),
    "data.sources",
    *(f"model.{name}" for name in ModelConfig.model_fields if name not in SPEED_ONLY | START_ONLY),
)
"""What `train.allow_changes` takes, beside the sections of these."""

Changes = dict[str, str]


def curve_changes(now: Config, then: Config) -> Changes:
    """Fields of CURVE that differ."""
    return {
        name: text
        for section, fields in CURVE.items()
        for name, text in section_changes(section, now, then).items()
        if name.partition(".")[2] in fields
    }


def model_changes(now: Config, then: Config) -> Changes:
    """Fields that make it another model."""
    changes = section_changes("model", now, then)
    return {name: text for name, text in changes.items() if name.partition(".")[2] not in SPEED_ONLY | START_ONLY}


def section_changes(section: str, now: Config, then: Config) -> Changes:
    """All fields of a section that differ."""
    new, old = (getattr(config, section) for config in (now, then))
    return {
        f"{section}.{name}": f"{getattr(new, name)}, was {getattr(old, name)}"
        for name in type(new).model_fields
        if getattr(new, name) != getattr(old, name)
    }


def told(changes: Changes, names: Iterable[str] | None = None) -> str:
    """Changes in words, all of them or those of some fields."""
    return "; ".join(f"{name} = {changes[name]}" for name in (changes if names is None else names))


def same_weights(one: ModelConfig, other: ModelConfig) -> bool:
    """Whether weights of one model fit the other: the same names and shapes."""
    with torch.device("meta"):
        shapes = [{name: x.shape for name, x in make_model(config).state_dict().items()} for config in (one, other)]
    return shapes[0] == shapes[1]
