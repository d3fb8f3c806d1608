"""A Reformer language model (placeholder, being written)."""

from torch import nn


class ReformerLM(nn.Module):
    """Being written."""
