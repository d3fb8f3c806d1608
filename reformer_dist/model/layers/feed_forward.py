"""The feed-forward layer, chunk by chunk along the tokens (Reformer, section 3), with a gate if wanted (Shazeer 2020).

In: a stream [B, T, E]. Out: [B, T, E]; the inner activations [B, chunk, feed_forward_dim] exist for one chunk at a time.

Legend: B batch, T tokens of this shard, S with those around them, E model dimension.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from reformer_dist.config import ModelConfig
from reformer_dist.model.budget import Budget
from reformer_dist.model.context import Context
from reformer_dist.model.keeping import Kept, product
from reformer_dist.model.layers.convolution import convolution_parameters, convolve
from reformer_dist.model.layers.norm import norm_parameters, normalise
from reformer_dist.model.randomness import Use, dropout, make_key
from reformer_dist.model.reversible.borrowed_tokens import Neighbours, SurroundedTokens, surround, undo_pieces
from reformer_dist.model.reversible.layer import Layer
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
    """A norm, a short convolution, a wider layer, a non-linearity and the projection back."""

    def __init__(self, config: ModelConfig, layer: int, budget: Budget) -> None:
        super().__init__()
        self.config, self.layer, self.budget = config, layer, budget
        self.keep = config.kept_by_layers[layer]
        self.neighbours = Neighbours()
        """Who lends the tokens that the convolution reaches beside the shard; `parallelize` puts them in."""
        E, inner = config.embed_dim, config.feed_forward_dim
        for name, parameter in (norm_parameters(config, E) | convolution_parameters(config)).items():
            self.register_parameter(name, parameter)
        self.inner_weight, self.inner_bias = nn.Parameter(torch.empty(inner, E)), nn.Parameter(torch.zeros(inner))
        if config.gated:
            self.gate_weight, self.gate_bias = nn.Parameter(torch.empty(inner, E)), nn.Parameter(torch.zeros(inner))
        self.output_weight, self.output_bias = nn.Parameter(torch.empty(E, inner)), nn.Parameter(torch.zeros(E))
        self._names = [name for name, _ in self.named_parameters()]

    @property
    def near_reach(self) -> tuple[int, int]:
        """Tokens before and after a shard's own that `neighbours` lend."""
        return self.config.convolution_reach

    def _contribution(self, x_BTE: Tensor, context: Context, found: None, kept: Kept | None) -> tuple[Tensor, None]:
        parameters = list(self.parameters())
        tokens, around = surround(x_BTE, context, self.neighbours)
        if torch.is_grad_enabled():
            whole_BSE = tokens.whole
            cut = slice(tokens.start, tokens.end), slice(0, whole_BSE.shape[1])
            return self._piece(around, whole_BSE, cut, parameters), None
        return self._by_pieces(tokens, around, parameters, kept), None

    def _undo(
        self, x_BTE: Tensor, context: Context, found: None, addition: Addition, kept: Kept | None, leaves: Leaves
    ) -> None:
        tokens, around = surround(x_BTE, context, self.neighbours)
        piece = partial(self._piece, around, kept=kept, is_seen=addition.stream_BTE is not None)
        grads = undo_pieces(piece, tokens, self._cuts(tokens), addition, leaves)
        self.neighbours.give_back(grads.own, grads.left, grads.right)

    def _by_pieces(
        self, tokens: SurroundedTokens, around: Context, parameters: Sequence[Tensor], kept: Kept | None
    ) -> Tensor:
        out_BTE = torch.empty_like(tokens.own)
        for own, seen in self._cuts(tokens):
            out_BTE[:, tokens.in_shard(own)] = self._piece(
                around, tokens.read(seen), (own, seen), parameters, kept=kept
            )
        return out_BTE

    def _cuts(self, tokens: SurroundedTokens) -> Iterator[Cut]:
        return tokens.cuts(self.budget.feed_forward_tokens, *self.near_reach)

    def _piece(
        self,
        around: Context,
        x_BSE: Tensor,
        cut: Cut,
        parameters: Sequence[Tensor],
        *,
        kept: Kept | None = None,
        is_seen: bool = True,
    ) -> Tensor:
        """The contribution to the tokens `cut[0]`, from the tokens `cut[1]`; `around` is the place of the first there is.

        Where nobody looks at it, it need not be right.
        """
        weights, (own, seen) = dict(zip(self._names, parameters, strict=True)), cut
        x = convolve(normalise(x_BSE, weights, self.config), weights, around.documents_of(seen), self.config)
        x = x[:, own.start - seen.start : own.stop - seen.start]
        here = None if kept is None else kept.at(own.start)
        inner, *gates = (
            product(x, weights[f"{name}_weight"], weights[f"{name}_bias"], kept=here, name=name)
            for name in (("inner", "gate") if self.config.gated else ("inner",))
        )
        inner = ACTIVATIONS[self.config.activation](inner)
        for gate in gates:
            inner = inner * gate
        inner = self._dropout(inner, around, own.start, Use.FEED_FORWARD_INNER)
        x = product(inner, weights["output_weight"], weights["output_bias"], is_seen=is_seen)
        return self._dropout(x, around, own.start, Use.FEED_FORWARD_OUTPUT)

    def _dropout(self, x: Tensor, context: Context, start: int, use: Use) -> Tensor:
        if not self.training or self.config.hidden_dropout == 0:
            return x
        key = make_key(self.config.seed, context.step, self.layer, use)
        return dropout(x, self.config.hidden_dropout, key, context.first_row, context.first_position + start)
