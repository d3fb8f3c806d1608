"""Running the Triton kernels over lists of rows.

In: matrices of vectors, one row a token and head, and `Lists` that say how they are ordered and who sees whom. Out: outputs
and log-sum-exps of all rounds together, or gradients. Triton comes with torch's CUDA builds and is imported when it is used.

Legend: M rows, D head dimension, N slices (heads of sequences), R rounds, P places of a round.
"""

import functools
import importlib.util
import logging
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reformer_dist.model.backends.packing import statistics_dtype
from reformer_dist.model.backends.rules import Comparison

DTYPES = (torch.float32, torch.bfloat16)
MAX_HEAD_DIM = 256
MIN_BLOCK = 16  # what a tensor core's product takes at least


@dataclass(frozen=True)
class Lists:
    """How rows are ordered, and who sees whom; see kernels.py."""

    rows_NRP: Tensor
    """Row at each place, int32; -1 for none. P is a multiple of the block."""
    segments_NRP: Tensor | None
    """Segment at each place, int32, -1 for padding; None where all rows are of one."""
    hashes_M: Tensor | None
    """Hashes of the rows for dropout, int64; None without."""
    block: int
    """Places of a panel, a power of two."""
    per: int
    """Panels of a chunk."""
    before: int
    """Chunks before its own that a query looks into."""
    after: int
    """Chunks behind its own that a query looks into."""
    reach: tuple[int, int] | None
    """Smallest and largest distance back in the list; None for whole chunks, which wrap around."""
    compare: Comparison
    """Which rows a key may have, as in `Rule`."""
    query_panels: tuple[int, int] | None = None
    """First and last + 1 of a round's panels that hold queries; None for all of them."""
    threshold: int = 0
    """Dropout's draws below it are dropped."""
    kept: float = 1.0
    """What dropout multiplies the weights by that it keeps."""

    @property
    def num_panels(self) -> int:
        """Panels of a round."""
        return self.rows_NRP.shape[2] // self.block


@dataclass(frozen=True)
class Vectors:
    """Rows of vectors [M, D], which may be columns of one wider matrix."""

    q: Tensor
    k: Tensor | None
    """None for shared queries-keys: keys are the queries at unit length."""
    v: Tensor
    scale: float = 1.0
    """Of the scores, where keys are not shared."""


@functools.cache
def is_available() -> bool:
    """Whether Triton can be imported; says once if not."""
    if importlib.util.find_spec("triton") is None:
        logging.getLogger(__name__).warning(
            "Triton isn't installed, attention on the GPU is slower: pip install triton"
        )
        return False
    return True


def pick_block(wanted: int, head_dim: int, dtype: torch.dtype) -> int:
    """Places of a panel: a power of two, `wanted` or the next, as long as a program's sums fit its registers."""
    return min(max(MIN_BLOCK, 1 << (wanted - 1).bit_length()), longest_block(head_dim, dtype))


def longest_block(head_dim: int, dtype: torch.dtype) -> int:
    """The longest panel whose sums fit a program's registers; `--suite kernels` of the benchmarks shows what they take."""
    longest = 64 if head_dim <= 64 else 32
    return longest if dtype.itemsize == 2 else longest // 2


def panels_within(reach: tuple[int, int], block: int) -> tuple[int, int]:
    """Panels before and behind a query's own that hold keys within its reach."""
    nearest, furthest = reach
    return math.ceil(furthest / block), math.ceil(-nearest / block)


def attend(vectors: Vectors, lists: Lists, count_met: bool = False) -> tuple[Tensor, Tensor, Tensor | None]:
    """Attend in all rounds.

    Args:
        vectors: queries, keys and values.
        lists: orders and rules.
        count_met: whether to count, for every row and round, how often a query meets its own key.

    Returns:
        Outputs [M, D] in the statistics' dtype, 0 where nothing was seen; log-sum-exps [M], -inf there; counts [R, M] int16
        or None.

    """
    from reformer_dist.model.backends.triton import kernels

    v = vectors.v
    out_MD = torch.zeros(v.shape, dtype=statistics_dtype(v), device=v.device)
    lse_M = torch.full(v.shape[:1], -torch.inf, dtype=out_MD.dtype, device=v.device)
    num_rounds = lists.rows_NRP.shape[1]
    met_RM = torch.zeros(num_rounds, v.shape[0], dtype=torch.int16, device=v.device) if count_met else None
    for index in range(num_rounds):
        met_M = None if met_RM is None else met_RM[index]
        matrices = (vectors.q, _keys(vectors), v, v.stride(0), out_MD, lse_M, met_M)
        _run(kernels.forward, matrices, vectors, lists, index, lists.query_panels)
    return out_MD, lse_M, met_RM


def attend_backward(
    vectors: Vectors, grad_MD: Tensor, lse_M: Tensor, delta_M: Tensor, lists: Lists, into: tuple[Tensor, Tensor, Tensor]
) -> None:
    """Add the gradients of all rounds.

    Args:
        vectors: queries, keys and values.
        grad_MD: gradient of the combined output; rows may lie apart.
        lse_M: log-sum-exps of all rounds together, inf for rows that ask nothing.
        delta_M: product of the combined output and its gradient.
        lists: orders and rules.
        into: gradients of q, k and v [M, D] to add to, in the statistics' dtype; the first two are one for shared keys.

    """
    from reformer_dist.model.backends.triton import kernels

    dq, dk, dv = into
    given = (vectors.q, _keys(vectors), vectors.v, vectors.v.stride(0), grad_MD, grad_MD.stride(0), lse_M, delta_M)
    for index in range(lists.rows_NRP.shape[1]):
        _run(kernels.backward_queries, (*given, dq, dq.stride(0)), vectors, lists, index, lists.query_panels)
        _run(kernels.backward_keys, (*given, dk, dv, dv.stride(0)), vectors, lists, index, None)


def _keys(vectors: Vectors) -> Tensor:
    return vectors.q if vectors.k is None else vectors.k


def _run(
    kernel: Any, matrices: tuple[Any, ...], vectors: Vectors, lists: Lists, index: int, tiles: tuple[int, int] | None
) -> None:
    q, D = vectors.q, vectors.q.shape[1]
    num_slices, num_rounds, _ = lists.rows_NRP.shape
    first, last = tiles or (0, lists.num_panels)
    nearest, furthest = lists.reach or (0, 0)
    with torch.cuda.device_of(q):
        kernel[(num_slices * (last - first),)](
            *matrices,
            lists.rows_NRP,
            lists.segments_NRP,
            lists.hashes_M,
            index,
            first,
            last - first,
            lists.num_panels,
            num_rounds,
            lists.per,
            lists.before,
            lists.after,
            nearest,
            furthest,
            lists.threshold,
            lists.kept,
            vectors.scale,
            **constants(D, lists.block, shared=vectors.k is None, reach=lists.reach is not None, compare=lists.compare),
            **options(kernel.__name__),
        )


def constants(head_dim: int, block: int, *, shared: bool, reach: bool, compare: str) -> dict[str, Any]:
    """What the kernels are compiled for."""
    # As torch's own matrix products: float32 exactly, unless the user allows tensor cores their shorter format.
    precision = "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"
    width = max(MIN_BLOCK, 1 << (head_dim - 1).bit_length())
    return {
        "SHARED": shared,
        "REACH": reach,
        "COMPARE": compare,
        "D": head_dim,
        "WIDTH": width,
        "BLOCK": block,
        "PRECISION": precision,
    }


def options(kernel: str) -> dict[str, int]:
    """Warps of a program and stages of its loop; `backward_keys` has sums for keys and for values."""
    return {"num_warps": 8 if kernel == "backward_keys" else 4, "num_stages": 2}
