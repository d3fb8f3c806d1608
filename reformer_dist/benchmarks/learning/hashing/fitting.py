"""Hashes that are fitted to what they hash, instead of drawn blindly.

In: a head's queries-keys of a few training sequences. Out: a linear map to hash through, or rotations.

Legend: N tokens of all sequences, T tokens of one, D head dimension, R hash rounds, F half the buckets, Q sampled queries,
K keys sampled for each.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from reformer_dist.benchmarks.learning.hashing.looking import exact_weights
from reformer_dist.model.attention.lsh.hashing import draw_rotations
from reformer_dist.model.backends.description import unit_keys

STEPS = 300
QUERIES, KEYS = 256, 4
"""Sampled in each step; keys by their attention weight."""
BALANCE = 4.0
"""Weight of the buckets' entropy, without which all tokens would end in one."""
RIDGE = 0.05
"""Added to a covariance's eigenvalues, as a share of their mean."""


def mean_and_whitening(x_ND: Tensor) -> tuple[Tensor, Tensor]:
    """The mean [D] of vectors, and the map [D, D] after which they have unit covariance."""
    mean_D = x_ND.mean(0)
    values_D, vectors_DD = torch.linalg.eigh((x_ND - mean_D).T @ (x_ND - mean_D) / len(x_ND))
    return mean_D, vectors_DD * (values_D + RIDGE * values_D.mean()).rsqrt() @ vectors_DD.T


def learned_rotations(sequences: Sequence[Tensor], num_buckets: int, num_hashes: int, seed: int = 0) -> Tensor:
    """Rotations [D, R, F] under which queries share a bucket with keys that they attend to.

    The argmax over buckets becomes a softmax; the probability that a query and a key, drawn by its attention weight, share a
    bucket in some round is raised by Adam, and so is the entropy of the buckets (as learned hashes do: HATA, arXiv
    2506.02572; HashAttention, arXiv 2412.14468).

    Args:
        sequences: queries-keys [T, D] of training sequences; each is taken in its turn.
        num_buckets: even.
        num_hashes: rounds.
        seed: of the first rotations and of all samples.

    """
    head_dim = sequences[0].shape[-1]
    rotations_DRF = draw_rotations(seed, head_dim, num_hashes, (num_buckets,)) / math.sqrt(head_dim)
    rotations_DRF.requires_grad_()
    optimizer = torch.optim.Adam([rotations_DRF], lr=0.02)
    generator = torch.Generator().manual_seed(seed)
    for step in range(STEPS):
        x_TD = sequences[step % len(sequences)]
        queries_Q = torch.randint(1, len(x_TD), (QUERIES,), generator=generator)
        keys_QK = torch.multinomial(exact_weights(x_TD, queries_Q), KEYS, replacement=True, generator=generator)
        unit_TD = unit_keys(x_TD) * math.sqrt(head_dim)
        of_queries_Q1RF = _shares(unit_TD[queries_Q], rotations_DRF)[:, None]
        of_keys_QKRF = _shares(unit_TD[keys_QK], rotations_DRF)
        together_QKR = (of_queries_Q1RF * of_keys_QKRF).sum(-1)
        is_shown_QK = 1 - (1 - together_QKR).prod(-1)
        mean_RF = torch.cat([of_queries_Q1RF, of_keys_QKRF], dim=1).mean((0, 1))
        entropy = -torch.xlogy(mean_RF, mean_RF).sum(-1).mean() / math.log(num_buckets)
        loss = -is_shown_QK.clamp(min=1e-6).log().mean() - BALANCE * entropy
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return rotations_DRF.detach()


def _shares(x: Tensor, rotations_DRF: Tensor) -> Tensor:
    """Probability of each bucket, [..., R, 2F], of vectors [..., D]."""
    rotated = torch.einsum("...d,drf->...rf", x, rotations_DRF)
    return torch.cat([rotated, -rotated], dim=-1).softmax(-1)
