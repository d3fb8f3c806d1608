"""A short convolution along the tokens, feature by feature, of what a layer reads (Allen-Zhu 2025, "Canon layers").

In: a normalised stream. Out: the stream and, added to it, a weighted sum of its nearest tokens: each token and those just
before it, or on either side where the model is not causal. Tokens mix with those of their own document alone. So a layer
knows what stands beside a token before it projects anything, and LSH hashes tokens by their neighbourhood.

Legend: B batch, T tokens, S with those around them, E model dimension, K width of the convolution.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from reformer_dist.config import ModelConfig
from reformer_dist.model.backends.backend import Backend, Work
from reformer_dist.model.backends.choice import choose

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
    weight_E1K = parameters[WEIGHT]
    backend = choose(Work(x_BSE.device, x_BSE.dtype, 1, kernel=config.attention_kernel))
    return _Convolution.apply(x_BSE, weight_E1K, documents_BS, config.convolution_reach[1], backend)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, documents: Tensor | None, after: int, backend: Backend) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.documents, ctx.after, ctx.backend = documents, after, backend
        return backend.convolve(x, weight, documents, after)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad_x, grad_weight = ctx.backend.convolve_backward(grad, x, weight, ctx.documents, ctx.after)
        return grad_x, grad_weight, None, None, None
