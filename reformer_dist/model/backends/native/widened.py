"""The compiled backend for bfloat16 on a CPU, as autocast has it: what comes is widened to float32, results are narrowed.

In and out: as `Backend` says. Only hashing and attention are compiled; the rest is torch's code. Attention's own
arithmetic is so that of float32; its inputs and results are rounded as everywhere under autocast.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from reformer_dist.model.backends.backend import Backend, Work
from reformer_dist.model.backends.description import OrderedRows, OrderedTokens
from reformer_dist.model.backends.native import build
from reformer_dist.model.backends.native.backend import Native
from reformer_dist.model.backends.packing import pack, unpack
from reformer_dist.model.budget import Budget


class Widened(Backend):
    """What the compiled operators compute, of narrower vectors."""

    noun = "the compiled operators in float32"
    device_type = "cpu"
    dtypes = (torch.bfloat16,)
    serves_once = Native.serves_once

    def __init__(self) -> None:
        self._native = Native()

    def is_meant_for(self, work: Work) -> bool:
        """See `Backend`. What is not narrower has the compiled operators themselves."""
        return super().is_meant_for(work) and work.dtype in self.dtypes

    def missing(self) -> str | None:
        """See `Backend`."""
        return self._native.missing()

    def strength(self, work: Work) -> str:
        """See `Backend`."""
        return f"{super().strength(work)}, in float32 with {build.capability()}"

    def attend(self, q_BTHD: Tensor, k_BTHD: Tensor | None, v_BTHD: Tensor, blocks: OrderedTokens) -> Tensor:
        """See `Backend`."""
        k_BTHD = None if k_BTHD is None else k_BTHD.float()
        return self._native.attend(q_BTHD.float(), k_BTHD, v_BTHD.float(), blocks).to(v_BTHD.dtype)

    def attend_rows(self, vectors: Tensor, rows: OrderedRows) -> Tensor:
        """See `Backend`."""
        out_MD, lse_M1 = unpack(self._native.attend_rows(vectors.float(), rows), vectors.shape[1] // 2)
        return pack(out_MD.to(vectors.dtype), lse_M1)

    def attend_rows_backward(self, vectors: Tensor, outputs: Tensor, rows: OrderedRows) -> Tensor:
        """See `Backend`."""
        grad_MD, statistics_M2 = unpack(outputs, vectors.shape[1] // 2)
        outputs = pack(grad_MD.float(), statistics_M2)
        return self._native.attend_rows_backward(vectors.float(), outputs, rows).to(vectors.dtype)

    def hash(self, qk_BTHD: Tensor, rotations: Tensor, factors: Sequence[int], budget: Budget) -> Tensor:
        """See `Backend`."""
        return self._native.hash(qk_BTHD.float(), rotations, factors, budget)
