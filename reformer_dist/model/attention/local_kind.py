"""Local attention as an attention kind, see `Kind`.

Legend: B batch, T tokens, H heads, D head dimension.
"""

import torch
from torch import Tensor

from reformer_dist.model.attention.exchange import Exchange, NoExchange
from reformer_dist.model.attention.kind import Kind
from reformer_dist.model.attention.local import local_attention
from reformer_dist.model.attention.memory import NewestTokens
from reformer_dist.model.backends.backend import Backend, Work
from reformer_dist.model.backends.choice import explain
from reformer_dist.model.context import Context
from reformer_dist.model.keeping import Kept


class LocalKind(Kind):
    """Attention of every token to its neighbourhood."""

    @property
    def exchanges(self) -> frozenset[str]:
        """See `Kind`."""
        return frozenset({"neighbours"} if self.config.local_mode == "window" else {"heads"})

    @property
    def reach(self) -> tuple[int, int] | None:
        """See `Kind`."""
        window = self.config.local_window
        if self.config.local_mode != "window":
            return None
        return (window - 1, 0) if self.config.causal else (window, window)

    @property
    def shortest_piece(self) -> int:
        """See `Kind`."""
        return 4 * self.config.local_window

    @property
    def dropout_probability(self) -> float:
        """See `Kind`."""
        own = self.config.local_attention_dropout
        return self.config.attention_dropout if own is None else own

    def attend(
        self,
        tensors: tuple[Tensor, ...],
        context: Context,
        found: None,
        training: bool,
        exchange: Exchange,
        kept: Kept | None = None,
    ) -> tuple[Tensor, None]:
        """See `Kind`."""
        config = self.config
        q, k, v = tensors
        out = local_attention(
            self.turned(q, context.first_position),
            self.turned(k, context.first_position),
            v,
            mode=config.local_mode,
            window=config.local_window,
            neighbours=config.local_neighbours,
            padded_length=self.padded_length(q.shape[1]),
            causal=config.causal,
            context=context,
            dropout=self.dropout(context, training),
            kernel=config.attention_kernel,
            budget=self.budget,
            kept=kept,
        )
        return out, None

    def explain(self, device: torch.device, dtype: torch.dtype) -> str:
        """See `Kind`."""
        dropout, kernel = self.dropout_probability > 0, self.config.attention_kernel
        return explain(Work(device, dtype, self.config.head_width, dropout=dropout, kernel=kernel))

    def make_memory(self, heads: slice, like: Tensor, backend: Backend) -> NewestTokens:
        """See `Kind`."""

        def attend(*tensors: Tensor) -> Tensor:
            return self.attend(tensors, Context(), None, False, NoExchange())[0]

        window, before = self.config.local_window, self.config.local_neighbours[0]
        capacity = window if self.config.local_mode == "window" else (before + 1) * window
        return NewestTokens(attend, self.turned, self._oldest, capacity, backend)

    def _oldest(self, positions_B: Tensor) -> Tensor:
        """The first token that each token sees, in decoding."""
        window = self.config.local_window
        if self.config.local_mode == "window":
            return (positions_B + 1 - window).clamp(min=0)
        return (positions_B // window - self.config.local_neighbours[0]).clamp(min=0) * window
