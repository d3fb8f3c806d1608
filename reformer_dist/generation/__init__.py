"""Text from a causal model, alone or from a source: what callers outside this package use."""

from reformer_dist.generation.continuing import generate, stream
from reformer_dist.generation.sampling import Sampling
from reformer_dist.generation.translating import translate

__all__ = ["Sampling", "generate", "stream", "translate"]
