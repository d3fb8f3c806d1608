"""Locality-sensitive hashing by random rotations (Andoni et al. 2015; Reformer, section 2).

In: queries-keys and rotations. Out: a bucket for every token, head and hash round.

Legend: B batch, T tokens, H heads, D head dimension, R hash rounds, F half the sum of the bucket factors.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from reformer_dist.model.backends.native import build

_MAX_PROJECTIONS = 1 << 22  # elements of rotated vectors that exist at a time


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


def hash_buckets(qk_BTHD: Tensor, rotations: Tensor, factors: Sequence[int], kernel: str = "auto") -> Tensor:
    """Bucket of every token: argmax([xR, -xR]) for each factor, combined with the first factor least significant.

    Args:
        qk_BTHD: un-normalised queries-keys; no gradient flows into hashing.
        rotations: [D, R, F], or [H, D, R, F] for rotations of each head.
        factors: bucket factors; their product is the number of buckets.
        kernel: "auto" or "plain"; they may differ where two buckets tie to the last bit.

    Returns:
        Buckets [B, H, R, T], in the smallest of int16 and int32 that holds them.

    """
    if kernel == "auto" and build.serves(qk_BTHD):
        return torch.ops.reformer_dist.hash(build.with_rows(qk_BTHD.detach()), _of_heads(rotations, qk_BTHD), factors)
    B, T, H, _ = qk_BTHD.shape
    R, width = rotations.shape[-2:]
    dtype = torch.int16 if math.prod(factors) < 2**15 else torch.int32
    buckets_BHRT = torch.zeros(B, H, R, T, dtype=dtype, device=qk_BTHD.device)
    rotations = rotations.to(qk_BTHD.device, qk_BTHD.dtype)
    equation = "bthd,drf->bhrtf" if rotations.dim() == 3 else "bthd,hdrf->bhrtf"
    tokens = max(1, _MAX_PROJECTIONS // max(1, B * H * R * width))
    for start in range(0, T if width else 0, tokens):
        part = slice(start, start + tokens)
        rotated = torch.einsum(equation, qk_BTHD.detach()[:, part], rotations)
        buckets_BHRT[..., part] = _combine(rotated, factors).to(dtype)
    return buckets_BHRT


def _of_heads(rotations: Tensor, qk_BTHD: Tensor) -> Tensor:
    """Rotations [H or 1, D, R, F] in the vectors' dtype."""
    return (rotations[None] if rotations.dim() == 3 else rotations).to(qk_BTHD.dtype)


def _combine(rotated: Tensor, factors: Sequence[int]) -> Tensor:
    bucket = torch.zeros(rotated.shape[:-1], dtype=torch.int64, device=rotated.device)
    scale = 1
    for factor, part in zip(factors, rotated.split([factor // 2 for factor in factors], dim=-1), strict=True):
        if factor > 1:
            high, low = part.max(dim=-1), part.min(dim=-1)
            bucket += scale * torch.where(high.values >= -low.values, high.indices, low.indices + factor // 2)
        scale *= factor
    return bucket
