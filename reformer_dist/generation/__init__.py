"""Text from a causal model: what callers outside this package use."""

from reformer_dist.generation.sampling import generate, stream

__all__ = ["generate", "stream"]
