"""Combining hash rounds as they come: the softmax of their log-sum-exps, kept as running sums.

In: a round's outputs and log-sum-exps for some rows, each row once a round. Out: the combined output of every row.

Legend: M rows, D head dimension.
"""

import torch
from torch import Tensor

from reformer_dist.model.backends.packing import statistics_dtype, unpack


class RunningCombination:
    """Sum of exp(lse_r - m) out_r, sum of exp(lse_r - m), and the largest lse so far, m, for every row."""

    def __init__(self, num_rows: int, v: Tensor) -> None:
        """Start with nothing; `v` gives head dimension, device and, up to float32, the precision."""
        dtype = statistics_dtype(v)
        self.sum_MD = torch.zeros(num_rows, v.shape[-1], dtype=dtype, device=v.device)
        self.weight_M = torch.zeros(num_rows, dtype=dtype, device=v.device)
        self.largest_M = torch.full((num_rows,), -torch.inf, dtype=dtype, device=v.device)

    def add(self, rows: Tensor, out: Tensor, lse: Tensor) -> None:
        """Add outputs [., D] and log-sum-exps [.] of some rows; lse is -inf where nothing was seen."""
        previous = self.largest_M[rows]
        largest = torch.maximum(previous, lse)
        finite = largest.nan_to_num(neginf=0.0)
        old, new = torch.exp(previous - finite), torch.exp(lse - finite)
        self.sum_MD[rows] = self.sum_MD[rows] * old[:, None] + out.to(self.sum_MD.dtype) * new[:, None]
        self.weight_M[rows] = self.weight_M[rows] * old + new
        self.largest_M[rows] = largest

    def add_packed(self, rows: Tensor, packed: Tensor) -> None:
        """Add what `pack` has put side by side."""
        out, lse = unpack(packed, self.sum_MD.shape[1])
        self.add(rows.long(), out, lse[:, 0])

    def finish(self, own_MD: Tensor, own_keep_M: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Combine.

        Args:
            own_MD: every row's own value, its output where it saw nothing in any round.
            own_keep_M: multipliers of the own value's weight, such as dropout's; None for one.

        Returns:
            Output, log-sum-exp (+inf where nothing was seen), and the weight of the own value (0 where something was).

        """
        lonely_M = self.weight_M == 0
        own_weight_M = lonely_M.to(self.weight_M.dtype)
        own_weight_M = own_weight_M if own_keep_M is None else own_weight_M * own_keep_M
        weight_M = torch.where(lonely_M, 1.0, self.weight_M)
        out_MD = self.sum_MD / weight_M[:, None] + own_MD * own_weight_M[:, None]
        return out_MD, torch.where(lonely_M, torch.inf, self.largest_M + weight_M.log()), own_weight_M


def masked_self_weight(num_self_RN: Tensor) -> Tensor:
    """Weight of a lonely token's own value, by scores of -1e5 as Hugging Face sums them: near 1, but for their rounding.

    `num_self_RN` says how often it met itself in each round, at least 1, in the dtype of the scores.
    """
    lse_RN = torch.log(num_self_RN) - 1e5
    return (num_self_RN * torch.exp(-1e5 - lse_RN) * torch.exp(lse_RN - lse_RN.logsumexp(0))).sum(0)
