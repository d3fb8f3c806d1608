"""Locality-sensitive hashing by random rotations (Andoni et al. 2015; Reformer, section 2).

In: queries-keys and rotations. Out: a bucket for every token, head and hash round.

Legend: B batch, T tokens, H heads, D head dimension, R hash rounds, F half the sum of the bucket factors.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from reformer_dist.model.backends.backend import KernelName, Work
from reformer_dist.model.backends.choice import choose
from reformer_dist.model.budget import Budget


def draw_rotations(
    seed: int,
    head_dim: int,
    num_hashes: int,
    factors: Sequence[int],
    num_heads: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Random rotations [D, R, F] shared by the heads, or [H, D, R, F]; on the CPU, the same for the same seed and dtype."""
    generator = torch.Generator().manual_seed(seed)
    shape = (head_dim, num_hashes, num_columns(factors))
    return torch.randn(shape if num_heads is None else (num_heads, *shape), generator=generator, dtype=dtype)


def num_columns(factors: Sequence[int]) -> int:
    """Columns of a rotation: half a bucket each, since x and -x give two buckets; none for the single bucket."""
    return sum(factor // 2 for factor in factors)


def hash_buckets(
    qk_BTHD: Tensor,
    rotations: Tensor,
    factors: Sequence[int],
    kernel: KernelName = "auto",
    budget: Budget | None = None,
) -> Tensor:
    """Bucket of every token: argmax([xR, -xR]) for each factor, as one number in which the first factor counts least.

    Args:
        qk_BTHD: un-normalised queries-keys; no gradient flows into hashing.
        rotations: [D, R, F], or [H, D, R, F] for rotations of each head.
        factors: bucket factors; their product is the number of buckets.
        kernel: "auto" or "plain"; they may differ where two buckets tie to the last bit.
        budget: what exists at a time; by default the default limits.

    Returns:
        Buckets [B, H, R, T], in the smallest of int16 and int32 that holds them.

    """
    work = Work(qk_BTHD.device, qk_BTHD.dtype, qk_BTHD.shape[-1], kernel=kernel)
    return choose(work).hash(qk_BTHD, rotations, factors, budget or Budget())
