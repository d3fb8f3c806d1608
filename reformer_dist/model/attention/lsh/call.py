"""One call of LSH attention, whose tokens are hashed but not yet ordered.

In: queries-keys, values and settings. Out: results, by the buckets where one worker has all tokens. Where a sequence has
several shards, the exchange orders and attends the tokens of all, and reads here how.

Legend: B batch, T tokens, H heads, D head dimension, R hash rounds, F half the sum of the bucket factors.
"""

from dataclasses import dataclass

from torch import Tensor

from reformer_dist.config import ModelConfig
from reformer_dist.model.attention.lsh.attention import lsh_attention
from reformer_dist.model.backends.description import AttentionDropout
from reformer_dist.model.budget import Budget
from reformer_dist.model.context import Context
from reformer_dist.model.keeping import Kept


@dataclass(frozen=True)
class LSHCall:
    """LSH attention of some heads over some tokens."""

    qk_BTHD: Tensor
    """Queries-keys."""
    v_BTHD: Tensor
    """Values."""
    rotations: Tensor
    """Of the hashing, [D, R, F] or [H, D, R, F]."""
    context: Context
    """Place of the tokens and heads."""
    dropout: AttentionDropout | None
    """Of attention weights; None for none."""
    config: ModelConfig
    """Mode, window and buckets."""
    budget: Budget
    """What exists at a time."""
    padded_length: int
    """Length to which chunked mode pads the tokens."""
    kept: Kept | None = None
    """Where results are kept; None where none are."""

    def attend(self, buckets_BHRT: Tensor) -> Tensor:
        """Results [B, T, H, D], where these tokens are whole sequences."""
        config = self.config
        return lsh_attention(
            self.qk_BTHD,
            self.v_BTHD,
            self.rotations,
            num_buckets=config.bucket_factors,
            mode=config.lsh_mode,
            window=config.lsh_window,
            neighbours=config.lsh_neighbours,
            padded_length=self.padded_length,
            causal=config.causal,
            own_value=not config.lsh_brings_next,
            buckets_BHRT=buckets_BHRT,
            context=self.context,
            dropout=self.dropout,
            kernel=config.attention_kernel,
            budget=self.budget,
            kept=self.kept,
        )
