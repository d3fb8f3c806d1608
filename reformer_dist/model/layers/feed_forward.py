"""The feed-forward layer, chunk by chunk along the tokens (Reformer, section 3), with a gate if wanted (Shazeer 2020).

In: a stream [B, T, E]. Out: [B, T, E]; the inner activations [B, chunk, feed_forward_dim] exist for one chunk at a time.

Legend: B batch, T tokens of this shard, E model dimension.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import linear

from reformer_dist.config import ModelConfig
from reformer_dist.model.budget import Budget
from reformer_dist.model.context import Context
from reformer_dist.model.layers.norm import norm_parameters, normalise
from reformer_dist.model.randomness import Use, dropout, make_key
from reformer_dist.model.reversible.borrowed_tokens import SurroundedTokens, undo_pieces
from reformer_dist.model.reversible.layer import Layer
from reformer_dist.model.reversible.recomputation import map_tokens
from reformer_dist.model.reversible.undoing import Addition, Cut, Leaves


class _SquaredRelu(torch.autograd.Function):
    """max(x, 0)^2 (So et al. 2021, "Primer"), in as few passes over memory and as little of it as it takes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        rectified = functional.relu(x)
        ctx.save_for_backward(rectified)
        return rectified * rectified

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (rectified,) = ctx.saved_tensors
        return (grad * rectified).mul_(2)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_tanh": partial(functional.gelu, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": functional.relu,
    "relu2": _SquaredRelu.apply,
    "relu6": functional.relu6,
    "leaky_relu": functional.leaky_relu,
    "silu": functional.silu,
    "mish": functional.mish,
    "hardswish": functional.hardswish,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "linear": lambda x: x,
}
"""The non-linearities of `ModelConfig.activation`."""


class FeedForward(Layer):
    """A norm, a wider layer, a non-linearity and the projection back."""

    def __init__(self, config: ModelConfig, layer: int, budget: Budget) -> None:
        super().__init__()
        self.config, self.layer, self.budget = config, layer, budget
        E, inner = config.embed_dim, config.feed_forward_dim
        for name, parameter in norm_parameters(config, E).items():
            self.register_parameter(name, parameter)
        self.inner_weight, self.inner_bias = nn.Parameter(torch.empty(inner, E)), nn.Parameter(torch.zeros(inner))
        if config.gated:
            self.gate_weight, self.gate_bias = nn.Parameter(torch.empty(inner, E)), nn.Parameter(torch.zeros(inner))
        self.output_weight, self.output_bias = nn.Parameter(torch.empty(E, inner)), nn.Parameter(torch.zeros(E))
        self._names = [name for name, _ in self.named_parameters()]

    def _contribution(self, x_BTE: Tensor, context: Context, found: None) -> tuple[Tensor, None]:
        def piece(start: int, inputs: Sequence[Tensor], parameters: Sequence[Tensor]) -> Tensor:
            return self._piece(inputs[0], context, start, parameters)

        return map_tokens(piece, self.budget.feed_forward_tokens, [x_BTE], list(self.parameters())), None

    def _undo(self, x_BTE: Tensor, context: Context, found: None, addition: Addition, leaves: Leaves) -> None:
        def piece(x: Tensor, cut: Cut, parameters: Sequence[Tensor]) -> Tensor:
            return self._piece(x, context, cut[0].start, parameters)

        tokens = SurroundedTokens(x_BTE, x_BTE[:, :0], x_BTE[:, :0])
        undo_pieces(piece, tokens, tokens.cuts(self.budget.feed_forward_tokens, 0, 0), addition, leaves)

    def _piece(self, x: Tensor, context: Context, start: int, parameters: Sequence[Tensor]) -> Tensor:
        own = dict(zip(self._names, parameters, strict=True))
        x = normalise(x, own, self.config)
        inner = ACTIVATIONS[self.config.activation](linear(x, own["inner_weight"], own["inner_bias"]))
        if self.config.gated:
            inner = inner * linear(x, own["gate_weight"], own["gate_bias"])
        inner = self._dropout(inner, context, start, Use.FEED_FORWARD_INNER)
        x = linear(inner, own["output_weight"], own["output_bias"])
        return self._dropout(x, context, start, Use.FEED_FORWARD_OUTPUT)

    def _dropout(self, x: Tensor, context: Context, start: int, use: Use) -> Tensor:
        if not self.training or self.config.hidden_dropout == 0:
            return x
        key = make_key(self.config.seed, context.step, self.layer, use)
        return dropout(x, self.config.hidden_dropout, key, context.first_row, context.first_position + start)
