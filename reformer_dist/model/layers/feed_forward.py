"""The feed-forward layer, chunk by chunk along the tokens (Reformer, section 3).

In: a stream [B, T, E]. Out: [B, T, E]; the inner activations [B, chunk, feed_forward_dim] exist for one chunk at a time.

Legend: B batch, T tokens of this shard, E model dimension.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import layer_norm, linear

from reformer_dist.config import ModelConfig
from reformer_dist.model.budget import Budget
from reformer_dist.model.context import Context
from reformer_dist.model.randomness import Use, dropout, make_key
from reformer_dist.model.reversible.borrowed_tokens import SurroundedTokens, undo_pieces
from reformer_dist.model.reversible.layer import Layer
from reformer_dist.model.reversible.recomputation import map_tokens
from reformer_dist.model.reversible.undoing import Addition, Cut, Leaves

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_tanh": partial(functional.gelu, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": functional.relu,
    "relu2": lambda x: functional.relu(x).square(),
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
    """LayerNorm, a wider layer, a non-linearity and the projection back."""

    def __init__(self, config: ModelConfig, layer: int, budget: Budget) -> None:
        super().__init__()
        self.config, self.layer, self.budget = config, layer, budget
        E, inner = config.embed_dim, config.feed_forward_dim
        self.norm_weight, self.norm_bias = nn.Parameter(torch.ones(E)), nn.Parameter(torch.zeros(E))
        self.inner_weight, self.inner_bias = nn.Parameter(torch.empty(inner, E)), nn.Parameter(torch.zeros(inner))
        self.output_weight, self.output_bias = nn.Parameter(torch.empty(E, inner)), nn.Parameter(torch.zeros(E))

    def _contribution(self, x_BTE: Tensor, context: Context, found: None) -> tuple[Tensor, None]:
        def piece(start: int, inputs: Sequence[Tensor], parameters: Sequence[Tensor]) -> Tensor:
            return self._piece(inputs[0], context, start, *parameters)

        return map_tokens(piece, self.budget.feed_forward_tokens, [x_BTE], list(self.parameters())), None

    def _undo(self, x_BTE: Tensor, context: Context, found: None, addition: Addition, leaves: Leaves) -> None:
        def piece(x: Tensor, cut: Cut, parameters: Sequence[Tensor]) -> Tensor:
            return self._piece(x, context, cut[0].start, *parameters)

        tokens = SurroundedTokens(x_BTE, x_BTE[:, :0], x_BTE[:, :0])
        undo_pieces(piece, tokens, tokens.cuts(self.budget.feed_forward_tokens, 0, 0), addition, leaves)

    def _piece(
        self,
        x: Tensor,
        context: Context,
        start: int,
        norm_weight: Tensor,
        norm_bias: Tensor,
        inner_weight: Tensor,
        inner_bias: Tensor,
        output_weight: Tensor,
        output_bias: Tensor,
    ) -> Tensor:
        x = layer_norm(x, norm_weight.shape, norm_weight, norm_bias, self.config.layer_norm_eps)
        x = linear(x, inner_weight, inner_bias)
        x = ACTIVATIONS[self.config.activation](x)
        x = self._dropout(x, context, start, Use.FEED_FORWARD_INNER)
        x = linear(x, output_weight, output_bias)
        return self._dropout(x, context, start, Use.FEED_FORWARD_OUTPUT)

    def _dropout(self, x: Tensor, context: Context, start: int, use: Use) -> Tensor:
        if not self.training or self.config.hidden_dropout == 0:
            return x
        key = make_key(self.config.seed, context.step, self.layer, use)
        return dropout(x, self.config.hidden_dropout, key, context.first_row, context.first_position + start)
