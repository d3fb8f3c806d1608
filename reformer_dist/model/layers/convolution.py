"""A short convolution along the tokens, feature by feature, of what a layer reads (Allen-Zhu 2025, "Canon layers").

In: a normalised stream. Out: the stream and, added to it, a weighted sum of its nearest tokens: each token and those just
before it, or on either side where the model is not causal. Tokens mix with those of their own document alone. So a layer
knows what stands beside a token before it projects anything, and LSH hashes tokens by their neighbourhood.

The sums are shifted copies, which on a CPU are faster than torch's convolution.

Legend: B batch, T tokens, S with those around them, E model dimension, K width of the convolution.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from reformer_dist.config import ModelConfig
from reformer_dist.model.backends.description import PADDING

WEIGHT = "convolution_weight"
"""Name of the parameter of a layer that has a convolution."""


def convolution_parameters(config: ModelConfig) -> dict[str, nn.Parameter]:
    """What a layer must have for `convolve`, by name; laid out as torch's, [E, 1, K]."""
    width = config.convolution_width
    return {WEIGHT: nn.Parameter(torch.empty(config.embed_dim, 1, width))} if width else {}


def convolve(
    x_BSE: Tensor, parameters: Mapping[str, Tensor], documents_BS: Tensor | None, config: ModelConfig
) -> Tensor:
    """The stream with its nearest tokens added; as it is where the model has no convolution. Differentiable.

    Args:
        x_BSE: the stream. Tokens before the first and behind the last count as zeros.
        parameters: the layer's, by name. The last column of the weight is that of the token furthest ahead.
        documents_BS: document of each token, -1 for padding, which stays as it is; None where all are of one.
        config: width of the convolution, and how many of its tokens lie behind a token.

    """
    if not config.convolution_width:
        return x_BSE
    return _Convolution.apply(x_BSE, parameters[WEIGHT], documents_BS, config.convolution_reach[1])


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, documents: Tensor | None, after: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.documents, ctx.after = documents, after
        out = x.clone()
        for column, to, source in _shifts(weight.shape[-1], after):
            out[:, to].addcmul_(_same(x[:, source], documents, to, source), weight[:, 0, column])
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad_x, grad_weight = grad.clone(), torch.empty_like(weight)
        for column, to, source in _shifts(weight.shape[-1], ctx.after):
            here = _same(grad[:, to], ctx.documents, to, source)
            grad_x[:, source].addcmul_(here, weight[:, 0, column])
            grad_weight[:, 0, column] = (here * x[:, source]).sum((0, 1))
        return grad_x, grad_weight, None, None


def _shifts(width: int, after: int) -> Iterator[tuple[int, slice, slice]]:
    """For each column the tokens that get something, and those that it comes from."""
    for column in range(width):
        ahead = column + after - (width - 1)  # negative: a token before
        if ahead <= 0:
            yield column, slice(-ahead, None), slice(None, ahead or None)
        else:
            yield column, slice(None, -ahead), slice(ahead, None)


def _same(x_BTE: Tensor, documents_BS: Tensor | None, to: slice, source: slice) -> Tensor:
    """The tokens, zero where the two that a shift brings together are of different documents or padding."""
    if documents_BS is None:
        return x_BTE
    same_BT = (documents_BS[:, to] == documents_BS[:, source]) & (documents_BS[:, to] != PADDING)
    return x_BTE * same_BT[..., None].to(x_BTE.dtype)


class RecentTokens:
    """What decoding keeps of a layer's input: as many of the last tokens as its convolution reaches back."""

    def __init__(self, config: ModelConfig) -> None:
        """Start empty."""
        self._reach = config.convolution_reach[0]
        self._tokens: Tensor | None = None

    def before(self, x_BTE: Tensor) -> Tensor:
        """The tokens before new ones [B, up to K - 1, E]; the new ones are then remembered."""
        earlier = x_BTE[:, :0] if self._tokens is None else self._tokens
        whole = torch.cat([earlier, x_BTE], dim=1)
        self._tokens = whole[:, max(0, whole.shape[1] - self._reach) :]
        return earlier
