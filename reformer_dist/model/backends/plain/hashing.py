"""Buckets by random rotations, in plain torch.

In: queries-keys and rotations. Out: a bucket for every token, head and hash round.

Legend: B batch, T tokens, H heads, D head dimension, R hash rounds, F half the sum of the bucket factors.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def hash_by_rotations(qk_BTHD: Tensor, rotations: Tensor, factors: Sequence[int], elements: int) -> Tensor:
    """Bucket of every token [B, H, R, T], `elements` of rotated vectors at a time; see attention/lsh/hashing.py."""
    B, T, H, _ = qk_BTHD.shape
    R, width = rotations.shape[-2:]
    dtype = torch.int16 if math.prod(factors) < 2**15 else torch.int32
    buckets_BHRT = torch.zeros(B, H, R, T, dtype=dtype, device=qk_BTHD.device)
    rotations = rotations.to(qk_BTHD.device, qk_BTHD.dtype)
    equation = "bthd,drf->bhrtf" if rotations.dim() == 3 else "bthd,hdrf->bhrtf"
    tokens = max(1, elements // max(1, B * H * R * width))
    for start in range(0, T if width else 0, tokens):
        part = slice(start, start + tokens)
        rotated = torch.einsum(equation, qk_BTHD.detach()[:, part], rotations)
        buckets_BHRT[..., part] = _largest(rotated, factors).to(dtype)
    return buckets_BHRT


def _largest(rotated: Tensor, factors: Sequence[int]) -> Tensor:
    """argmax([x, -x]) of the columns x of each factor, as one number, [..., F] -> [...]; the first factor counts least."""
    bucket = torch.zeros(rotated.shape[:-1], dtype=torch.int64, device=rotated.device)
    scale = 1
    for factor, part in zip(factors, rotated.split([factor // 2 for factor in factors], dim=-1), strict=True):
        if factor > 1:
            high, low = part.max(dim=-1), part.min(dim=-1)
            bucket += scale * torch.where(high.values >= -low.values, high.indices, low.indices + factor // 2)
        scale *= factor
    return bucket
