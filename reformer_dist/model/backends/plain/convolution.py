"""The short convolution along the tokens and its gradient, in plain torch: shifted copies, which run anywhere.

In: a stream, weights [E, 1, K] and documents, as `Backend.convolve` takes them. Out: the stream with its nearest tokens
added, or gradients.

Legend: B batch, S tokens, E width, K taps.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from reformer_dist.model.backends.description import PADDING


def convolve_by_shifts(x_BSE: Tensor, weight_E1K: Tensor, documents_BS: Tensor | None, after: int) -> Tensor:
    """See `Backend.convolve`."""
    out_BSE = x_BSE.clone()
    for tap, to, source in _shifts(weight_E1K.shape[-1], after):
        out_BSE[:, to].addcmul_(_same(x_BSE[:, source], documents_BS, to, source), weight_E1K[:, 0, tap])
    return out_BSE


def convolve_by_shifts_backward(
    grad_BSE: Tensor, x_BSE: Tensor, weight_E1K: Tensor, documents_BS: Tensor | None, after: int
) -> tuple[Tensor, Tensor]:
    """See `Backend.convolve_backward`."""
    grad_x, grad_weight = grad_BSE.clone(), torch.empty_like(weight_E1K)
    for tap, to, source in _shifts(weight_E1K.shape[-1], after):
        here = _same(grad_BSE[:, to], documents_BS, to, source)
        grad_x[:, source].addcmul_(here, weight_E1K[:, 0, tap])
        grad_weight[:, 0, tap] = (here * x_BSE[:, source]).sum((0, 1))
    return grad_x, grad_weight


def _shifts(width: int, after: int) -> Iterator[tuple[int, slice, slice]]:
    """For each tap the tokens that get something, and those that it comes from."""
    for tap in range(width):
        ahead = tap + after - (width - 1)  # negative: a token before
        if ahead <= 0:
            yield tap, slice(-ahead, None), slice(None, ahead or None)
        else:
            yield tap, slice(None, -ahead), slice(ahead, None)


def _same(x_BTE: Tensor, documents_BS: Tensor | None, to: slice, source: slice) -> Tensor:
    """The tokens, zero where the two that a shift brings together are of different documents or padding."""
    if documents_BS is None:
        return x_BTE
    same_BT = (documents_BS[:, to] == documents_BS[:, source]) & (documents_BS[:, to] != PADDING)
    return x_BTE * same_BT[..., None].to(x_BTE.dtype)
