"""What a backend is asked to compute: attention in blocks of ordered tokens, described once for all backends.

`OrderedTokens` describes whole sequences: the backend orders each round's tokens by (document, bucket, position).
`OrderedRows` describes one round's rows that came from several workers: their order is given. Both carry the rule that says
which keys a query sees, and the dropout of attention weights; the gradient is described by the same object.

Legend: B batch, T tokens, H heads, D head dimension, R hash rounds, N slices (heads of sequences), S places of a slice's
order, M rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from reformer_dist.model.backends.rules import Rule
from reformer_dist.model.budget import Budget
from reformer_dist.model.context import Context
from reformer_dist.model.keeping import Kept
from reformer_dist.model.randomness import keep_scale, keep_threshold

PADDING = -1  # document of tokens that are only padding
NO_KEY = -1  # segment of places whose token is padding, or that hold none
NO_ROW = -1  # of places that hold no token


@dataclass(frozen=True)
class AttentionDropout:
    """Dropout of attention weights, keyed by head and the global positions of query and key."""

    probability: float
    key: int

    @property
    def threshold(self) -> int:
        """A pair whose draw of 16 bits is less than this is dropped."""
        return keep_threshold(self.probability)

    @property
    def scale(self) -> float:
        """What the weights of the other pairs are multiplied by."""
        return keep_scale(self.probability)


@dataclass(frozen=True, kw_only=True)
class OrderedBlocks:
    """What both descriptions have in common."""

    rule: Rule
    """Which keys a query sees."""
    budget: Budget = field(default_factory=Budget)
    """How much of it exists at a time, where a backend works in pieces."""
    dropout: AttentionDropout | None = None
    """Of attention weights; None for none."""


@dataclass(frozen=True, kw_only=True)
class OrderedTokens(OrderedBlocks):
    """The tokens of whole sequences, in every hash round by (document, bucket, position)."""

    context: Context
    """Documents, and the shard's place for dropout."""
    buckets_BHRT: Tensor | None = None
    """LSH buckets of every round; None for one round in the given order."""
    num_buckets: int = 1
    """Buckets of a round."""
    kept: Kept | None = None
    """Where results are kept from the forward to the backward pass; None where none are."""

    @property
    def num_rounds(self) -> int:
        """Hash rounds R."""
        return 1 if self.buckets_BHRT is None else self.buckets_BHRT.shape[2]


@dataclass(frozen=True, kw_only=True)
class OrderedRows(OrderedBlocks):
    """Rows of one hash round that came to a worker, in any order, and the place of each in the round's order.

    The worker answers for the queries, which lie side by side; the rows around them are halo: keys alone.
    """

    order_NS: Tensor
    """Row at each place, int32; NO_ROW where there is none. S is a multiple of the rule's block."""
    queries: tuple[int, int]
    """First and last + 1 of the queries' places."""
    own: Tensor
    """Which rows are the queries, [M'] int32, in the order that they came."""
    segments_M: Tensor
    """(document, bucket) of each row, int32; NO_KEY for padding."""
    hashes_M: Tensor | None = None
    """Dropout hash of each row before it is scrambled, int64; None without dropout."""

    @property
    def reach(self) -> tuple[int, int]:
        """The rule's reach: chunks of a whole round can't be told from a part of it."""
        assert self.rule.reach is not None
        return self.rule.reach

    def lay_out(self, rows_MX: Tensor) -> Tensor:
        """Rows at their places, [N, S, X]; places without one hold the first row, which is nobody's key."""
        return rows_MX.index_select(0, self.order_NS.clamp(min=0).flatten()).unflatten(0, self.order_NS.shape)

    def segments_of_places(self) -> Tensor:
        """Segment at every place, [N, S] int32; NO_KEY where there is no row."""
        return self.lay_out(self.segments_M).masked_fill(self.order_NS == NO_ROW, NO_KEY)


@dataclass(frozen=True)
class StreamNorm:
    """What a layer makes of its stream in decoding, before its matrices: the norm, then the convolution."""

    weight_E: Tensor
    bias_E: Tensor | None
    """None for RMSNorm, else LayerNorm."""
    eps: float
    """Added to the variance."""
    taps_E1K: Tensor | None
    """The convolution's weights; None for none."""
    recent_BKE: Tensor | None
    """The K - 1 normalised tokens before, the oldest first; the new one is put there."""


@dataclass(frozen=True)
class AttentionWeights:
    """The matrices of an attention layer whose heads are all of one kind."""

    projections: Sequence[Tensor]
    """Each [N, E]: of queries, keys and values, or of queries-keys and values."""
    output_EN: Tensor
    """Of the results."""
    temperature_H: Tensor | None
    """Of each head, where queries and keys have unit length; None where they are as they come."""


@dataclass(frozen=True)
class FeedForwardWeights:
    """The matrices of a feed-forward layer."""

    inner: Sequence[Tensor]
    """Each [N, E]: of what is activated, and then of the gate if there is one."""
    inner_biases: Sequence[Tensor]
    """Theirs, each [N]."""
    output_EN: Tensor
    """Of the inner activations."""
    output_bias_E: Tensor
    activation: str
    """As the configuration names it."""


@dataclass(frozen=True)
class FiledTokens:
    """The tokens that decoding has read, by position and by bucket; what is read next is put into the tensors.

    Each of H heads has N buckets a round, of the last W tokens each; C is the room for tokens.
    """

    rows: Tensor
    """Keys of unit length and the values that they bring, by position, [B, H, C, 2 D]."""
    newest_BHRNW: Tensor
    """Positions, int32; number i of a bucket is at i modulo W."""
    counts_BHRN: Tensor
    """Tokens that each bucket had, int32."""
    brings_next: bool
    """Whether a key brings the next token's value."""


def unit_keys(qk_BTHD: Tensor) -> Tensor:
    """Keys of unit length: qk / sqrt(sum(qk^2) + D * 1e-6), as trax and Hugging Face normalise."""
    D = qk_BTHD.shape[-1]
    return qk_BTHD * torch.rsqrt(qk_BTHD.square().mean(-1, keepdim=True) + 1e-6) * D**-0.5
