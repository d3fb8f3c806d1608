"""What is around attention in decoding: the norm and the convolution of a layer, feed-forward layers, the output layer.

In: a stream of a prompt [B, T, E], then that of one token more of every row [B, E]. Out: the stream as a layer reads it, or
the layer's contribution, or logits.

Legend: B batch, T tokens, E model dimension, K width of the convolution.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from reformer_dist.config import ModelConfig
from reformer_dist.model.attention.memory import Place
from reformer_dist.model.backends.backend import DecodingPlan, Work
from reformer_dist.model.backends.choice import choose
from reformer_dist.model.backends.description import FeedForwardWeights, StreamNorm
from reformer_dist.model.context import Context
from reformer_dist.model.layers.convolution import WEIGHT
from reformer_dist.model.layers.feed_forward import ACTIVATIONS, FeedForward
from reformer_dist.model.layers.norm import normalise
from reformer_dist.model.layers.output import OutputLayer


class NormalisedStream:
    """The norm and the convolution that a layer begins with; keeps the last K - 1 tokens."""

    def __init__(self, layer: nn.Module, config: ModelConfig) -> None:
        self._config, self._weights = config, dict(layer.named_parameters(recurse=False))
        weight = self._weights["norm_weight"]
        work = Work(weight.device, weight.dtype, config.head_width, kernel=config.attention_kernel)
        self.backend = choose(work)
        """Computes one token more."""
        self._norm = self._norm_with(None)

    def fill(self, x_BTE: Tensor) -> None:
        """Keep the last of the first tokens."""
        reach = self._config.convolution_reach[0]
        if self._config.convolution_width:
            last = normalise(x_BTE[:, max(0, x_BTE.shape[1] - reach) :], self._weights, self._config)
            recent_BKE = x_BTE.new_zeros(x_BTE.shape[0], reach, x_BTE.shape[2])
            recent_BKE[:, reach - last.shape[1] :] = last
            self._norm = self._norm_with(recent_BKE)

    def next(self, x_BE: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor] = ()) -> list[Tensor]:
        """One token more as the layer reads it, times each of its matrices [N, E]: [B, N] of each."""
        return self.backend.next_projections(x_BE, self._norm, weights, biases)

    @property
    def norm(self) -> StreamNorm:
        """What is made of the stream, by its tensors."""
        return self._norm

    def extend(self, others: Sequence["NormalisedStream"]) -> None:
        """Add the rows of others behind its own."""
        recent = [stream._norm.recent_BKE for stream in (self, *others) if stream._norm.recent_BKE is not None]
        self._norm = self._norm_with(torch.cat(recent) if recent else None)

    def take(self, rows_N: Tensor) -> None:
        """Go on with these rows."""
        recent_BKE = self._norm.recent_BKE
        self._norm = self._norm_with(None if recent_BKE is None else recent_BKE.index_select(0, rows_N))

    def _norm_with(self, recent_BKE: Tensor | None) -> StreamNorm:
        own = self._weights
        eps = self._config.layer_norm_eps
        return StreamNorm(own["norm_weight"], own.get("norm_bias"), eps, own.get(WEIGHT), recent_BKE)


class DecodingFeedForward:
    """A feed-forward layer and what its convolution keeps."""

    def __init__(self, layer: FeedForward) -> None:
        self._layer, self._stream = layer, NormalisedStream(layer, layer.config)
        inner, biases = [layer.inner_weight], [layer.inner_bias]
        if layer.config.gated:
            inner, biases = [*inner, layer.gate_weight], [*biases, layer.gate_bias]
        output = layer.output_weight, layer.output_bias
        self._weights = FeedForwardWeights(inner, biases, *output, layer.config.activation)

    def begin(self, nothing_B0E: Tensor) -> None:
        """Begin with rows that have read nothing."""
        self._stream.fill(nothing_B0E)

    def fill(self, last_BTE: Tensor) -> None:
        """Remember the first tokens by the last of them, as many as the convolution reaches back to."""
        self._stream.fill(last_BTE)

    def read(self, x_BTE: Tensor) -> Tensor:
        """The contribution to the first tokens [B, T, E]."""
        self._stream.fill(x_BTE)
        return self._layer.contribute(x_BTE, Context())[0]

    def next(self, x_BE: Tensor, place: Place) -> Tensor:
        """The contribution to one token more [B, E], wherever it stands."""
        weights, backend = self._weights, self._stream.backend
        inner, *gates = self._stream.next(x_BE, weights.inner, weights.inner_biases)
        activate = ACTIVATIONS[weights.activation]
        # A row at a time, as a function's last bit can depend on where in a tensor a number lies.
        inner = activate(inner) if len(inner) == 1 else torch.cat([activate(row_1N) for row_1N in inner.split(1)])
        for gate in gates:
            inner = inner * gate
        return backend.next_product(inner, weights.output_EN, weights.output_bias_E)

    def add_to(self, plan: DecodingPlan, longest: int) -> bool:
        """Add this layer to a plan; whether that has code for it."""
        has_code = self._weights.activation in plan.activations
        if has_code:
            plan.add_feed_forward(self._stream.norm, self._weights)
        return has_code

    def extend(self, others: Sequence["DecodingFeedForward"]) -> None:
        """Add the rows of others, of the same layer, behind its own."""
        self._stream.extend([other._stream for other in others])

    def take(self, rows_N: Tensor) -> None:
        """Go on with these rows, any number of times each."""
        self._stream.take(rows_N)

    @property
    def num_bytes(self) -> int:
        """It remembers no tokens."""
        return 0


class DecodingOutput:
    """The output layer."""

    def __init__(self, layer: OutputLayer) -> None:
        self._layer, self._stream = layer, NormalisedStream(layer, layer.config)

    def make_plan(self) -> DecodingPlan | None:
        """See `Backend`."""
        return self._stream.backend.make_plan()

    def next(self, first_BE: Tensor, second_BE: Tensor) -> Tensor:
        """Logits [B, V] after one token more."""
        layer, config = self._layer, self._layer.config
        x = (first_BE + second_BE) / 2 if config.tie_embeddings else torch.cat([first_BE, second_BE], dim=1)
        return layer.capped(*self._stream.next(x, (layer.weight,), (layer.bias,)))

    def probabilities(self, logits_BV: Tensor) -> Tensor:
        """Softmax of logits."""
        return self._stream.backend.next_probabilities(logits_BV)
