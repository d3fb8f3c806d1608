"""Position embeddings: axial (Reformer's; Ho et al. 2019, "Axial attention", for the grid) or learned.

In: positions [B, T]. Out: vectors [B, T, E]. Any positions below the configured maximum work, in training too. Rotary
positions are none of these: attention turns queries and keys by them (attention/rotary.py).

Legend: B batch, T tokens, E model dimension.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from reformer_dist.config import ModelConfig


class AxialPositions(nn.Module):
    """Position i as coordinates in a grid, row by row; its vector joins one learned vector for each coordinate.

    For 1,048,576 positions a 1,024 x 1,024 grid needs 2,048 vectors instead of a million.
    """

    def __init__(self, factors: tuple[tuple[int, int], ...]) -> None:
        """Make the tables, `axis_0`, `axis_1`, ... of (length, width) each; the first axis varies slowest."""
        super().__init__()
        self.lengths = tuple(length for length, _ in factors)
        for axis, shape in enumerate(factors):
            self.register_parameter(f"axis_{axis}", nn.Parameter(torch.empty(shape)))

    def forward(self, positions_BT: Tensor) -> Tensor:
        """Vectors [B, T, E] of int64 positions."""
        parts = []
        for axis in reversed(range(len(self.lengths))):
            length = self.lengths[axis]
            parts.append(embedding(positions_BT % length, getattr(self, f"axis_{axis}")))
            positions_BT = positions_BT // length
        return torch.cat(parts[::-1], dim=-1)


class LearnedPositions(nn.Module):
    """One learned vector a position."""

    def __init__(self, max_length: int, embed_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(max_length, embed_dim))

    def forward(self, positions_BT: Tensor) -> Tensor:
        """Vectors [B, T, E] of int64 positions."""
        return self.weight[positions_BT]


def make_positions(config: ModelConfig) -> AxialPositions | LearnedPositions | None:
    """The position embeddings that the configuration names."""
    if config.positions == "axial":
        return AxialPositions(config.axial_factors)
    return LearnedPositions(config.max_length, config.embed_dim) if config.positions == "learned" else None
