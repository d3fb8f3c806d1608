"""Statistics of attention (log-sum-exps and the like): their dtype, and how they travel behind vectors of a narrower one.

In: vectors and statistics of some rows. Out: one matrix of the vectors' dtype, and back.

Legend: M rows, D columns of the vectors, X of the statistics, Y of both together.
"""

import torch
from torch import Tensor


def statistics_dtype(x: Tensor) -> torch.dtype:
    """Dtype of scores' log-sum-exps: float64 stays, all else is float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def pack(vectors_MD: Tensor, statistics_MX: Tensor) -> Tensor:
    """Vectors and, behind them, statistics of a wider dtype bit by bit, so that one exchange carries both exactly."""
    return torch.cat([vectors_MD, statistics_MX.contiguous().view(vectors_MD.dtype)], dim=1)


def unpack(rows_MY: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The two parts of `pack`, of which the vectors have `width` columns."""
    return rows_MY[:, :width], rows_MY[:, width:].contiguous().view(statistics_dtype(rows_MY))
