"""How much exists at a time: the limits of everything that is worked on in pieces.

In: nothing, or a model's configuration. Out: one frozen object that whoever makes layers and exchanges hands to them. No
other file has such a limit, and what a training step takes follows from them (`planning/memory/formula.py`).

What is not here: tiles and panels of the compiled kernels and of Triton's, which are chosen for registers and caches and
take kilobytes.
"""

from dataclasses import dataclass, fields
from typing import Self

from reformer_dist.config import ModelConfig


@dataclass(frozen=True)
class Budget:
    """Limits of what exists at a time. A smaller one saves memory, and below the defaults costs time."""

    projected_tokens: int = 1 << 11
    """Tokens of a row that are normalised and projected at a time, and that local attention works on at a time (if its
    window is longer than a quarter of that, four windows). Matrices of this many rows keep the processor's cores busy."""
    turned_tokens: int = 1 << 10
    """Tokens of a row whose queries or keys are turned by their positions at a time. Their angles are kept in float64, those
    of later tokens follow from them."""
    head_elements: int = 1 << 23
    """Elements of one tensor of queries of the heads that are worked on at a time; always at least one head. Undoing an LSH
    layer holds six such tensors beside the four streams, of which a long sequence has as many elements each."""
    exchanged_elements: int = 1 << 21
    """The same where workers exchange, which hold what is sent and what is received beside it; always at least one head for
    each worker of a group that exchanges heads."""
    cross_scores: int = 1 << 22
    """Scores of a piece of queries with all keys of a source, in exact cross-attention; at least one query of a row."""
    cross_gathered: int = 1 << 21
    """Elements of the keys that a piece of queries sees in all rounds, in LSH cross-attention; as many of the values, and at
    least one query of a row."""
    rotated_elements: int = 1 << 22
    """Elements of rotated vectors while tokens are hashed without the compiled operator: a vector for each token, head and
    round, as wide as half the sum of the bucket factors."""
    sampled_scores: int = 1 << 22
    """Scores of one head's sampled queries that hash health holds; past it fewer queries are sampled, down to 8."""
    stretch_entries: int = 1 << 14
    """Entries of a hash round's ordered list whose scores exist at a time, of one slice, without the compiled operators.
    Each has a score for every key that its block sees, and a mask."""
    sliced_entries: int = 1 << 14
    """Entries of all slices (a head of a sequence) together that plain attention works on at a time; always at least one
    slice. Many short sequences would else have their scores all at once."""
    routed_entries: int = 1 << 13
    """Queries of one route of the buckets exchange, about; what is sent for it and received is this many rows and a halo.
    Fewer are exchanges too small for a network."""
    routed_halos: int = 16
    """How many times its halo a part of an order is long at least, however few entries are routed at a time: shorter parts
    would mostly send each other their halos."""
    routes_ahead: int = 2
    """Routes of the buckets exchange whose tokens are under way while another is computed, so that a worker rarely waits."""
    kept_elements: int = 18 << 20
    """Elements of received queries-keys and values that the buckets exchange keeps from an undo's forward half to its
    backward half; what is past it is sent again. Two tensors of 2^21 elements in four rounds, and their halos, fit."""
    feed_forward_tokens: int = 1 << 11
    """Tokens of a row that a feed-forward layer works on at a time; `model.feed_forward_chunk` in a configuration."""
    loss_tokens: int = 1 << 11
    """Tokens of a row whose logits exist at a time; `model.loss_chunk` in a configuration."""

    def __post_init__(self) -> None:
        """Refuse limits under which nothing could exist."""
        for field in fields(self):
            if (limit := getattr(self, field.name)) < 1:
                raise ValueError(f"budget.{field.name} = {limit} must be at least 1; {field.default} works")

    @classmethod
    def of(cls, config: ModelConfig) -> Self:
        """The default limits, but the configuration's own of feed-forward and loss."""
        return cls(feed_forward_tokens=config.feed_forward_chunk, loss_tokens=config.loss_chunk)
