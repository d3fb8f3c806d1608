"""Where a shard lies in the whole: what attention and dropout need to know beside the activations.

Legend: B batch, T tokens of this shard.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Context:
    """The place of a shard [B, T] in its training step."""

    documents_BT: Tensor | None = None
    """Document of each token, int64, -1 for padding; None when every sequence is one document."""
    step: int = 0
    """Training step; a part of every random key."""
    first_row: int = 0
    """Index in the step's global batch of row 0."""
    first_position: int = 0
    """Index in the whole sequence of this shard's first token."""
    first_head: int = 0
    """Index in the model of head 0, where heads are sharded."""

    def documents_of(self, tokens: slice) -> Tensor | None:
        """Documents of some of the tokens."""
        return None if self.documents_BT is None else self.documents_BT[:, tokens]
