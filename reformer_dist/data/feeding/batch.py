"""A batch: one worker's shard of some sequences, as the model takes it."""

from dataclasses import dataclass, field, replace

import torch

from reformer_dist.data.feeding.examples import IGNORED_LABEL


@dataclass(frozen=True)
class SourceBatch:
    """One worker's shard of the sources of some sequences; shape legend: B sequences, S positions of this shard.

    Attributes:
        tokens_BS: int64, what an encoder reads; 0 in padding.
        positions_BS: int64, index for the position embeddings; 0 in padding.
        documents_BS: int64, index of the document inside its sequence, as that of its target; -1 is padding.
        first_position: index in the whole source of this shard's first position.
    """

    tokens_BS: torch.Tensor
    positions_BS: torch.Tensor
    documents_BS: torch.Tensor
    first_position: int = 0

    def to(self, device: torch.device | str) -> "SourceBatch":
        """The same with its tensors on `device`."""
        return replace(
            self,
            tokens_BS=self.tokens_BS.to(device, non_blocking=True),
            positions_BS=self.positions_BS.to(device, non_blocking=True),
            documents_BS=self.documents_BS.to(device, non_blocking=True),
        )


@dataclass(frozen=True)
class Batch:
    """One worker's shard of some sequences; shape legend: B sequences, T positions of this shard.

    Attributes:
        tokens_BT: int64, inputs; 0 in padding.
        labels_BT: int64, what the model is to say at each position, of the whole document; -100 is not scored.
        positions_BT: int64, index for the position embeddings; 0 in padding.
        documents_BT: int64, index of the document inside its sequence (0, 1, 2, ...); -1 is padding.
        first_row: index of row 0 in the step's global batch.
        first_position: index in the whole sequence of this shard's first position.
        source: what an encoder reads, if there is one.
        num_tokens: labels that are scored; counted on the CPU when the batch is made.
        num_read: tokens that are read, scored or not, without padding; counted as `num_tokens` is.
    """

    tokens_BT: torch.Tensor
    labels_BT: torch.Tensor
    positions_BT: torch.Tensor
    documents_BT: torch.Tensor
    first_row: int = 0
    first_position: int = 0
    source: SourceBatch | None = None
    num_tokens: int = field(default=-1)
    num_read: int = field(default=-1)

    def __post_init__(self) -> None:
        if self.num_tokens < 0:
            object.__setattr__(self, "num_tokens", int((self.labels_BT != IGNORED_LABEL).sum()))
        if self.num_read < 0:
            of_source = 0 if self.source is None else int((self.source.documents_BS >= 0).sum())
            object.__setattr__(self, "num_read", int((self.documents_BT >= 0).sum()) + of_source)

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch with its tensors on `device`."""
        return replace(
            self,
            tokens_BT=self.tokens_BT.to(device, non_blocking=True),
            labels_BT=self.labels_BT.to(device, non_blocking=True),
            positions_BT=self.positions_BT.to(device, non_blocking=True),
            documents_BT=self.documents_BT.to(device, non_blocking=True),
            source=None if self.source is None else self.source.to(device),
        )
