"""Text from a causal model: what callers outside this package use."""

from reformer_dist.generation.continuing import generate, stream
from reformer_dist.generation.sampling import Sampling

__all__ = ["Sampling", "generate", "stream"]
