"""Full attention as an attention kind, see `Kind`.

Legend: B batch, T tokens, H heads, D head dimension.
"""

import torch
from torch import Tensor

from reformer_dist.model.attention.exchange import Exchange, NoExchange
from reformer_dist.model.attention.full import full_attention
from reformer_dist.model.attention.kind import Kind
from reformer_dist.model.attention.memory import NewestTokens
from reformer_dist.model.backends.backend import Backend
from reformer_dist.model.context import Context
from reformer_dist.model.keeping import Kept


class FullKind(Kind):
    """Exact attention over the whole sequence."""

    @property
    def exchanges(self) -> frozenset[str]:
        """See `Kind`."""
        return frozenset({"heads"})

    def attend(
        self,
        tensors: tuple[Tensor, ...],
        context: Context,
        found: None,
        training: bool,
        exchange: Exchange,
        kept: Kept | None = None,
    ) -> tuple[Tensor, None]:
        """See `Kind`. Its results are made again, whatever is kept."""
        q, k, v = tensors
        q, k = self.turned(q, context.first_position), self.turned(k, context.first_position)
        dropout = self.dropout(context, training)
        return full_attention(q, k, v, causal=self.config.causal, context=context, dropout=dropout), None

    def explain(self, device: torch.device, dtype: torch.dtype) -> str:
        """See `Kind`."""
        return "torch's scaled_dot_product_attention"

    def make_memory(self, heads: slice, like: Tensor, backend: Backend) -> NewestTokens:
        """See `Kind`."""

        def attend(*tensors: Tensor) -> Tensor:
            return self.attend(tensors, Context(), None, False, NoExchange())[0]

        return NewestTokens(attend, self.turned, torch.zeros_like, None, backend)
