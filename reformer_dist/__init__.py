"""Distributed training of Reformers on very long sequences, on Ray."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from reformer_dist.config import Config, ModelConfig, load_config
from reformer_dist.version import __version__

if TYPE_CHECKING:
    from reformer_dist.checkpoints import load_model
    from reformer_dist.generation import generate, translate
    from reformer_dist.model.encoder_decoder import EncoderDecoder
    from reformer_dist.model.huggingface import from_pretrained, to_pretrained
    from reformer_dist.model.reformer import ReformerLM

__all__ = [
    "Config",
    "EncoderDecoder",
    "ModelConfig",
    "ReformerLM",
    "__version__",
    "from_pretrained",
    "generate",
    "load_config",
    "load_model",
    "to_pretrained",
    "translate",
]

_LATER = {
    "EncoderDecoder": "reformer_dist.model.encoder_decoder",
    "ReformerLM": "reformer_dist.model.reformer",
    "from_pretrained": "reformer_dist.model.huggingface",
    "generate": "reformer_dist.generation",
    "load_model": "reformer_dist.checkpoints",
    "to_pretrained": "reformer_dist.model.huggingface",
    "translate": "reformer_dist.generation",
}
"""Where a name is that is imported when it is asked for: the processes that read and prepare data start without torch."""


def __getattr__(name: str) -> Any:
    """A name of `_LATER`."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATER[name]), name)
