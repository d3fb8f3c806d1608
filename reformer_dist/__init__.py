"""Distributed training of Reformers on very long sequences, on Ray."""

from reformer_dist.config import Config, ModelConfig, load_config
from reformer_dist.model.reformer import ReformerLM
from reformer_dist.version import __version__

__all__ = ["Config", "ModelConfig", "ReformerLM", "__version__", "load_config"]
