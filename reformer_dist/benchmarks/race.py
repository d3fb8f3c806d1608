"""A causal layer of RACE attention, whose hashing is soft: what our LSH layers are measured against.

In: a stream [B, T, E]. Out: what the layer adds to another, [B, T, E].

Joshi et al., "RACE Attention: A Strictly Linear-Time Attention for Long-Sequence Training" (arXiv 2510.04008). A table has P
random hyperplanes W. A vector belongs in part to each of the table's 2^P corners c of {-1, 1}^P:

    phi(x)[c] = softmax over c of beta tanh(W x) . c                                        (Algorithm 1, step 3)

Two vectors meet as phi(q) . phi(k), summed over L tables, a smooth form of (1 - angle / pi)^P. It is a product of features,
so all that a token reads of those before it is in sums that go along (Algorithm 2):

    o_t = sum over s <= t of phi(q_t) . phi(k_s) v_s  /  sum over s <= t of phi(q_t) . phi(k_s)

These are the paper's equations in torch, not its authors' kernels. Sums go along from chunk to chunk, and within a chunk all
pairs are multiplied, as is usual for linear attention. Queries and keys are needed for nothing but their products with
hyperplanes, so the hyperplanes are multiplied with the weights, and the products are projected at once.

Legend: B batch, T tokens, E model dimension, H heads, D head dimension, L tables, P hyperplanes of a table, S = L 2^P
corners of all tables, C chunks, W chunk length, X = D + 1: a value, and a one for the denominator.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad
from torch.utils.checkpoint import checkpoint

CHUNK, PIECE = 64, 1024
"""Tokens of which all pairs are multiplied, and tokens that are worked on at a time. Neither changes what comes out."""
SMALLEST = 1e-6
"""Added to denominators, as in the authors' code."""


class RaceAttention(nn.Module):
    """LayerNorm, projections without biases, RACE attention and the projection back.

    `beta` is learned, from 1; hyperplanes are drawn once, and all heads have the same.
    """

    hyperplanes: Tensor
    corners: Tensor

    def __init__(
        self, embed_dim: int, num_heads: int, *, num_tables: int, num_planes: int, seed: int, keeps: bool = True
    ) -> None:
        """Draw hyperplanes, and weights of standard deviation 1 / sqrt(E).

        Args:
            embed_dim: E, a multiple of `num_heads`.
            num_heads: H.
            num_tables: L.
            num_planes: P.
            seed: of all that is drawn.
            keeps: whether all that the backward pass reads is kept; else it is made a second time, by pieces.

        """
        super().__init__()
        self.num_heads, self.num_tables, self.keeps = num_heads, num_tables, keeps
        generator = torch.Generator().manual_seed(seed)
        hyperplanes = torch.randn(num_tables * num_planes, embed_dim // num_heads, generator=generator)
        self.register_buffer("hyperplanes", hyperplanes)  # [L P, D]
        self.register_buffer("corners", corners(num_planes))
        self.norm = nn.LayerNorm(embed_dim)
        self.log_beta = nn.Parameter(torch.zeros(()))
        weights = torch.randn(4, embed_dim, embed_dim, generator=generator) * embed_dim**-0.5
        self.query_weight, self.key_weight, self.value_weight, self.output_weight = map(nn.Parameter, weights.unbind())

    def forward(self, x_BTE: Tensor) -> Tensor:
        """What the layer adds, [B, T, E]."""
        num_corners = self.num_tables * self.corners.shape[1]
        state_BHSX = x_BTE.new_zeros(x_BTE.shape[0], self.num_heads, num_corners, self.hyperplanes.shape[1] + 1)
        hashing = torch.cat([self._on_hyperplanes(self.query_weight), self._on_hyperplanes(self.key_weight)])
        found = []
        for piece_BTE in x_BTE.split(PIECE, dim=1):
            if self.keeps:
                out_BTE, state_BHSX = self._attend(piece_BTE, hashing, state_BHSX)
            else:
                out_BTE, state_BHSX = checkpoint(self._attend, piece_BTE, hashing, state_BHSX, use_reentrant=False)
            found.append(out_BTE)
        return torch.cat(found, dim=1)

    def _on_hyperplanes(self, weight: Tensor) -> Tensor:
        """The matrix [H L P, E] that projects on the hyperplanes of each head what `weight` [H D, E] would have made."""
        return (self.hyperplanes @ weight.unflatten(0, (self.num_heads, -1))).flatten(0, 1)

    def _attend(self, x_BTE: Tensor, hashing: Tensor, state_BHSX: Tensor) -> tuple[Tensor, Tensor]:
        """What is added for some tokens, and the sums up to the last of them."""
        num_tokens = x_BTE.shape[1]
        normed_BTE = self.norm(pad(x_BTE, (0, 0, 0, -num_tokens % CHUNK)))  # nobody reads what is behind the last token
        projected = linear(normed_BTE, hashing).unflatten(-1, (2, self.num_heads, -1))  # [B, T, 2, H, L P]
        features = soft_hashes(projected, self.corners, self.log_beta.exp())
        queries, keys = features.unflatten(1, (-1, CHUNK)).permute(3, 0, 4, 1, 2, 5)  # each [B, H, C, W, S]
        values = linear(normed_BTE, self.value_weight).unflatten(-1, (self.num_heads, -1)).unflatten(1, (-1, CHUNK))
        values = pad(values.permute(0, 3, 1, 2, 4), (0, 1), value=1.0)  # [B, H, C, W, X]
        read, state_BHSX = read_before(queries, keys, values, state_BHSX)
        read_BTE = read.permute(0, 2, 3, 1, 4).flatten(3).flatten(1, 2)
        return linear(read_BTE[:, :num_tokens], self.output_weight), state_BHSX


def corners(num_planes: int) -> Tensor:
    """All corners of {-1, 1}^P as columns, float32 [P, 2^P]."""
    return 2.0 * (torch.arange(2**num_planes) >> torch.arange(num_planes)[:, None] & 1) - 1.0


def soft_hashes(projected: Tensor, corners: Tensor, beta: Tensor) -> Tensor:
    """Soft hashes phi of all tables, side by side (Algorithm 1, step 3).

    Args:
        projected: products with the hyperplanes, [..., L P].
        corners: [P, 2^P].
        beta: how sharp, a scalar.

    Returns:
        [..., S].

    """
    signs = projected.tanh().unflatten(-1, (-1, corners.shape[0]))
    return (signs @ (beta * corners)).softmax(dim=-1).flatten(-2)


def read_before(queries: Tensor, keys: Tensor, values: Tensor, state_BHSX: Tensor) -> tuple[Tensor, Tensor]:
    """What tokens read of themselves and of all before them (Algorithm 2).

    Args:
        queries: phi(q) by chunks, [B, H, C, W, S].
        keys: phi(k) likewise.
        values: values and a one behind each, [B, H, C, W, X].
        state_BHSX: sums of phi(k) times these over the tokens before the first chunk.

    Returns:
        What is read, [B, H, C, W, D], and the sums over the last chunk's tokens too.

    """
    chunk_sums = keys.transpose(-1, -2) @ values  # [B, H, C, S, X]
    sums = torch.cat([state_BHSX[:, :, None], chunk_sums], dim=2).cumsum(dim=2)
    read = (queries @ keys.transpose(-1, -2)).tril() @ values + queries @ sums[:, :, :-1]
    return read[..., :-1] / (read[..., -1:] + SMALLEST), sums[:, :, -1]
