"""Rotary positions (Su et al. 2021, "RoFormer", equation 34): vectors turned by their position, pair by pair of features.

In: queries or keys [B, T, H, D] and the position of the first token in the whole sequence. Out: the same, turned, so that
the product of a query and a key depends on the distance between them and not on where they lie.

Angles are computed in float64, whatever the vectors' dtype: in float32 they would be wrong by 0.06 at position 2^20.

Legend: B batch, T tokens, H heads, D head dimension, F pairs of features.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from reformer_dist.model.reversible.undoing import pieces


def turn(x_BTHD: Tensor, first_position: int, base: float, at_a_time: int = 1 << 10) -> Tensor:
    """Turn vectors; differentiable.

    Features 2 f and 2 f + 1 are a pair, turned by the angle position / base^(2 f / D). A last feature without a partner
    stays as it is.

    Args:
        x_BTHD: vectors, float32, float64 or bfloat16.
        first_position: index in the whole sequence of token 0.
        base: the longest wave has about 2 pi base tokens.
        at_a_time: tokens that are turned at a time; their angles are kept for the next call.

    Returns:
        [B, T, H, D], of the same dtype.

    """
    return _Turn.apply(x_BTHD, first_position, base, at_a_time)


def turn_each(x_BTHD: Tensor, positions_BT: Tensor, base: float) -> Tensor:
    """Turn each vector by a position of its own, [B, T] int64, as `turn` does; differentiable."""
    width = x_BTHD.shape[-1] // 2 * 2
    dtype = torch.promote_types(x_BTHD.dtype, torch.float32)
    angles_BTF = positions_BT[..., None] * _table(width, base, 1, positions_BT.device)[0]
    cos, sin = (x.to(dtype)[:, :, None] for x in (angles_BTF.cos(), angles_BTF.sin()))
    first, second = x_BTHD[..., 0:width:2], x_BTHD[..., 1:width:2]
    turned = torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)
    return torch.cat([turned.to(x_BTHD.dtype), x_BTHD[..., width:]], dim=-1)


def waves(positions_B: Tensor, width: int, base: float, dtype: torch.dtype) -> Tensor:
    """What turns vectors [B, ..., width] of these positions: a complex number for each pair of features, [B, F]."""
    angles_BF = positions_B[:, None] * _table(width // 2 * 2, base, 1, positions_B.device)[0]
    return torch.polar(torch.ones_like(angles_BF), angles_BF).to(dtype.to_complex())


class _Turn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, first_position: int, base: float, at_a_time: int) -> Tensor:
        ctx.settings = first_position, base, at_a_time
        return _turned(x, *ctx.settings, backwards=False)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return _turned(grad, *ctx.settings, backwards=True), None, None, None


def _turned(x_BTHD: Tensor, first_position: int, base: float, at_a_time: int, *, backwards: bool) -> Tensor:
    """A turned copy. `backwards` turns by the opposite angles, which is the gradient."""
    out_BTHD = torch.empty_like(x_BTHD, memory_format=torch.contiguous_format)
    width = x_BTHD.shape[-1] // 2 * 2
    dtype = torch.promote_types(x_BTHD.dtype, torch.float32)
    speeds_F, table_TF = _table(width, base, at_a_time, x_BTHD.device)
    for piece in pieces(x_BTHD.shape[1], at_a_time):
        begin_F = (first_position + piece.start) * speeds_F
        waves_TF = table_TF[: piece.stop - piece.start] * torch.polar(torch.ones_like(begin_F), begin_F)
        waves_TF = (waves_TF.conj() if backwards else waves_TF).to(dtype.to_complex())
        pairs_BTHF = torch.view_as_complex(x_BTHD[:, piece, :, :width].to(dtype).unflatten(-1, (-1, 2)).contiguous())
        out_BTHD[:, piece, :, :width] = torch.view_as_real(pairs_BTHF * waves_TF[:, None]).flatten(-2)
    out_BTHD[..., width:] = x_BTHD[..., width:]
    return out_BTHD


@lru_cache(maxsize=8)
def _table(width: int, base: float, num_tokens: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Angle a token of each pair [F] float64, and the waves of the first positions, complex128 [T, F]."""
    speeds_F = base ** (torch.arange(0, width, 2, dtype=torch.float64, device=device) / -max(width, 1))
    angles_TF = torch.arange(num_tokens, device=device)[:, None] * speeds_F
    return speeds_F, torch.polar(torch.ones_like(angles_TF), angles_TF)
