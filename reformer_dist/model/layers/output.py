"""The output layer: logits, or the summed cross entropy without ever holding all logits.

In: the two streams [B, T, E]. Out: logits [B, T, V], or the sum of the tokens' losses in nats.

Legend: B batch, T tokens of this shard, E model dimension, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from reformer_dist.config import ModelConfig
from reformer_dist.model.backends.products import linear
from reformer_dist.model.budget import Budget
from reformer_dist.model.layers.norm import norm_parameters, normalise
from reformer_dist.model.reversible.recomputation import map_tokens, sum_tokens

IGNORED = -100  # label of tokens that are not scored
Observer = Callable[[Tensor, Tensor], None]
"""Takes logits [B, t, V] and labels [B, t] of a stretch of tokens."""


class OutputLayer(nn.Module):
    """A norm and logits: over both streams side by side, or over their mean where weights are tied to the embedding."""

    def __init__(self, config: ModelConfig, tied_weight: nn.Parameter | None, budget: Budget) -> None:
        super().__init__()
        self.config, self.budget = config, budget
        width = 2 * config.embed_dim if tied_weight is None else config.embed_dim
        for name, parameter in norm_parameters(config, width).items():
            self.register_parameter(name, parameter)
        self.weight = nn.Parameter(torch.empty(config.vocab_size, width)) if tied_weight is None else tied_weight
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self._names = [name for name, _ in self.named_parameters()]
        self._observer: Observer | None = None

    @contextmanager
    def observed(self, observer: Observer) -> Iterator[None]:
        """Show logits and labels, piece by piece, to an observer whenever a loss is computed during a block."""
        self._observer = observer
        try:
            yield
        finally:
            self._observer = None

    def forward(self, first_BTE: Tensor, second_BTE: Tensor, labels_BT: Tensor | None = None) -> Tensor:
        """Logits [B, T, V] in float32 (float64 for float64 streams), or with labels the sum of losses, a scalar.

        Both come chunk by chunk and are computed again, chunk by chunk, in the backward pass.
        """
        streams, parameters = [first_BTE, second_BTE], list(self.parameters())
        if labels_BT is None:
            return map_tokens(self._logits, self.budget.loss_tokens, streams, parameters)
        return sum_tokens(self._loss, self.budget.loss_tokens, [*streams, labels_BT], parameters)

    def capped(self, logits: Tensor) -> Tensor:
        """Logits held within the configured cap, if there is one."""
        cap = self.config.logit_cap
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def _logits(self, start: int, inputs: Sequence[Tensor], parameters: Sequence[Tensor]) -> Tensor:
        first, second = inputs[:2]
        own = dict(zip(self._names, parameters, strict=True))
        x = (first + second) / 2 if self.config.tie_embeddings else torch.cat([first, second], dim=-1)
        return self.capped(linear(normalise(x, own, self.config), own["weight"], own["bias"]).to(first.dtype))

    def _loss(self, start: int, inputs: Sequence[Tensor], parameters: Sequence[Tensor]) -> Tensor:
        logits = self._logits(start, inputs, parameters)
        if self._observer is not None:
            self._observer(logits, inputs[2])
        return cross_entropy(logits.flatten(0, 1), inputs[2].flatten(), ignore_index=IGNORED, reduction="sum")
