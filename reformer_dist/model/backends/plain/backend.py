"""The plain backend: everything spelt out in torch, for any device and dtype. The others are compared with it.

In and out: as `Backend` says.
"""

from torch import Tensor

from reformer_dist.model.backends.backend import Backend
from reformer_dist.model.backends.description import OrderedRows, OrderedTokens, unit_keys
from reformer_dist.model.backends.plain import rows as plain_rows
from reformer_dist.model.backends.plain.arithmetic import PLAIN
from reformer_dist.model.backends.plain.sequences import attend_in_blocks


class Plain(Backend):
    """Orders by torch, masks for every block, and some arithmetic over them."""

    noun = "the plain code"
    arithmetic = PLAIN
    """What computes a stretch of blocks."""

    def attend(self, q_BTHD: Tensor, k_BTHD: Tensor | None, v_BTHD: Tensor, blocks: OrderedTokens) -> Tensor:
        """See `Backend`."""
        keys_BTHD = unit_keys(q_BTHD) if k_BTHD is None else k_BTHD * q_BTHD.shape[-1] ** -0.5
        return attend_in_blocks(q_BTHD, keys_BTHD, v_BTHD, blocks, self.arithmetic)

    def attend_rows(self, vectors: Tensor, rows: OrderedRows) -> Tensor:
        """See `Backend`."""
        return plain_rows.attend(vectors, rows, self.arithmetic)

    def attend_rows_backward(self, vectors: Tensor, outputs: Tensor, rows: OrderedRows) -> Tensor:
        """See `Backend`."""
        return plain_rows.attend_backward(vectors, outputs, rows, self.arithmetic)
