"""Distributed training of Reformers on very long sequences, on Ray."""

from typing import TYPE_CHECKING

from reformer_dist.config import Config, ModelConfig, load_config
from reformer_dist.version import __version__

if TYPE_CHECKING:
    from reformer_dist.model.reformer import ReformerLM

__all__ = ["Config", "ModelConfig", "ReformerLM", "__version__", "load_config"]


def __getattr__(name: str) -> object:
    """ReformerLM, imported when it is asked for: the processes that read and prepare data start without torch."""
    if name != "ReformerLM":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from reformer_dist.model.reformer import ReformerLM

    return ReformerLM
