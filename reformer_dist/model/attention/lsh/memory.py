"""What decoding with LSH attention keeps: all keys and values, and for each bucket the positions of its last W tokens.

In: queries-keys and values of a prompt [B, T, H, D], then those of one token more of every row [B, H, D]. Out: their
results, equal to those of the whole sequence at once.

Legend: B batch, T tokens, H heads, D head dimension, R hash rounds, F half the sum of the bucket factors, N buckets, W
window.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from reformer_dist.config import ModelConfig
from reformer_dist.model.attention.lsh.hashing import hash_buckets
from reformer_dist.model.attention.memory import Place, TokenRows
from reformer_dist.model.backends.backend import Backend, DecodingPlan
from reformer_dist.model.backends.description import AttentionWeights, FiledTokens, StreamNorm, unit_keys


class BucketMemory:
    """See `Memory`."""

    def __init__(
        self,
        config: ModelConfig,
        rotations_HDRF: Tensor,
        attend: Callable[[tuple[Tensor, ...], Tensor], Tensor],
        turned: Callable[[Tensor, int], Tensor],
        backend: Backend,
    ) -> None:
        """Start empty.

        Args:
            config: window, buckets and what a key brings.
            rotations_HDRF: of these heads, or of all of them together, H = 1.
            attend: queries-keys and values of the first tokens, and their buckets -> their results.
            turned: see `Kind.turned`.
            backend: computes one token more.

        """
        self._factors, self._window = config.bucket_factors, min(config.lsh_window, config.max_length)
        self._brings_next, self._is_turned = config.lsh_brings_next, config.is_lsh_rotary
        self._rotations_HDRF, self._attend, self._turned, self._backend = rotations_HDRF, attend, turned, backend
        self._rows = TokenRows()
        self._newest_BHRNW: Tensor | None = None
        self._counts_BHRN: Tensor | None = None

    def begin(self, nothing_B0HD: Tensor) -> None:
        """See `Memory`."""
        self._rows.fill(nothing_B0HD, nothing_B0HD)
        B, _, H, _ = nothing_B0HD.shape
        self._index(torch.zeros(B, H, self._rotations_HDRF.shape[2], 0, dtype=torch.int64, device=nothing_B0HD.device))

    def read(self, tensors: tuple[Tensor, ...]) -> Tensor:
        """See `Memory`."""
        brought_BTHD, buckets_BHRT = self._file(tensors)
        return self._attend((tensors[0], brought_BTHD), buckets_BHRT)

    def fill(self, tensors: tuple[Tensor, ...]) -> None:
        """See `Memory`."""
        self._file(tensors)

    def _file(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Remember the first tokens; returns the values that their keys bring, and their buckets."""
        qk_BTHD, v_BTHD = tensors
        shared = len(self._rotations_HDRF) == 1
        buckets_BHRT = hash_buckets(qk_BTHD, self._rotations_HDRF[0] if shared else self._rotations_HDRF, self._factors)
        brought_BTHD = pad(v_BTHD[:, 1:], (0, 0, 0, 0, 0, 1)) if self._brings_next else v_BTHD
        self._rows.fill(unit_keys(self._turned(qk_BTHD, 0)), brought_BTHD)
        self._index(buckets_BHRT.long())
        return brought_BTHD, buckets_BHRT

    def next(self, tensors: tuple[Tensor, ...], place: Place) -> Tensor:
        """See `Memory`."""
        qk_BHD, v_BHD = tensors
        filed, waves_BF = self._filed(place.longest), place.waves_BF if self._is_turned else None
        buckets_BHR = self._backend.next_buckets(qk_BHD, self._rotations_HDRF, self._factors)
        return self._backend.next_of_buckets(qk_BHD, v_BHD, buckets_BHR, filed, place.positions_B, waves_BF)

    def add_to(self, plan: DecodingPlan, norm: StreamNorm, weights: AttentionWeights, longest: int) -> None:
        """See `Memory`."""
        hashing = self._rotations_HDRF, self._factors
        plan.add_attention_of_buckets(norm, weights, hashing, self._filed(longest), self._is_turned)

    def extend(self, others: Sequence["BucketMemory"]) -> None:
        """See `Memory`."""
        self._rows.extend([other._rows for other in others])
        newest = [memory._newest_BHRNW for memory in (self, *others) if memory._newest_BHRNW is not None]
        counts = [memory._counts_BHRN for memory in (self, *others) if memory._counts_BHRN is not None]
        self._newest_BHRNW, self._counts_BHRN = torch.cat(newest), torch.cat(counts)

    def take(self, rows_N: Tensor) -> None:
        """See `Memory`."""
        assert self._newest_BHRNW is not None
        assert self._counts_BHRN is not None
        self._rows.take(rows_N)
        self._newest_BHRNW = self._newest_BHRNW.index_select(0, rows_N)
        self._counts_BHRN = self._counts_BHRN.index_select(0, rows_N)

    @property
    def num_bytes(self) -> int:
        """See `Memory`."""
        places = [x.nbytes for x in (self._newest_BHRNW, self._counts_BHRN) if x is not None]
        return self._rows.num_bytes + sum(places)

    def _filed(self, longest: int) -> FiledTokens:
        """The tokens so far, with room for one at position `longest`."""
        assert self._newest_BHRNW is not None
        assert self._counts_BHRN is not None
        rows = self._rows.with_room(longest)
        return FiledTokens(rows, self._newest_BHRNW, self._counts_BHRN, self._brings_next)

    def _index(self, buckets_BHRT: Tensor) -> None:
        """File the positions of a whole prompt under their buckets."""
        B, H, R, T = buckets_BHRT.shape
        N, W = math.prod(self._factors), self._window
        counts = torch.zeros(B, H, R, N, dtype=torch.int64, device=buckets_BHRT.device)
        counts.scatter_add_(3, buckets_BHRT, torch.ones_like(buckets_BHRT))
        sorted_BHRT = torch.sort(buckets_BHRT * T + torch.arange(T, device=counts.device)).values
        bucket_BHRT, position_BHRT = sorted_BHRT // T, sorted_BHRT % T
        rank_BHRT = torch.arange(T, device=counts.device) - (counts.cumsum(-1) - counts).gather(3, bucket_BHRT)
        kept_BHRT = rank_BHRT >= counts.gather(3, bucket_BHRT) - W
        place_BHRT = torch.where(kept_BHRT, bucket_BHRT * W + rank_BHRT % W, N * W)  # the last place is thrown away
        newest = torch.empty((B, H, R, N * W + 1), dtype=torch.int32, device=counts.device)
        newest.scatter_(3, place_BHRT, position_BHRT.int())
        self._newest_BHRNW = newest[..., :-1].unflatten(3, (N, W)).contiguous()
        self._counts_BHRN = counts.int()
