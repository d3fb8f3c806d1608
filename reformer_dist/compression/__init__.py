"""Lossless compression by a causal model's own probabilities: python -m reformer_dist.compression."""
