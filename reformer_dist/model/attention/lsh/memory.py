"""What decoding with LSH attention keeps: all keys and values, and for each bucket the positions of its last W tokens.

In: queries-keys and values of new tokens [B, T, H, D]. Out: their results, equal to those of the whole sequence at once.

Legend: B batch, T tokens, H heads, D head dimension, R hash rounds, N buckets, W window.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from reformer_dist.config import ModelConfig
from reformer_dist.model.attention.lsh.hashing import hash_buckets
from reformer_dist.model.attention.memory import GrowingRows
from reformer_dist.model.backends.description import unit_keys


class BucketMemory:
    """See `Memory`."""

    def __init__(
        self,
        config: ModelConfig,
        rotations: Tensor,
        attend: Callable[[tuple[Tensor, ...], Tensor], Tensor],
        turned: Callable[[Tensor, int], Tensor],
    ) -> None:
        """Start empty.

        Args:
            config: window, buckets and what a key brings.
            rotations: of these heads.
            attend: queries-keys and values of the first tokens, and their buckets -> their results.
            turned: see `Kind.turned`.

        """
        self._factors, self._window = config.bucket_factors, min(config.lsh_window, config.max_length)
        self._brings_next = config.lsh_brings_next
        self._rotations, self._attend, self._turned = rotations, attend, turned
        self._keys, self._values = GrowingRows(), GrowingRows()
        self._newest_BHRNW: Tensor | None = None
        self._counts_BHRN: Tensor | None = None

    def attend(self, tensors: tuple[Tensor, ...]) -> Tensor:
        """See `Memory`."""
        qk, v = tensors
        buckets_BHRT = hash_buckets(qk, self._rotations, self._factors).long()
        start = self._keys.length
        qk = self._turned(qk, start)
        keys, values = self._keys.append(unit_keys(qk)), self._values.append(v)
        if start == 0:
            self._index(buckets_BHRT)
            return self._attend(tensors, buckets_BHRT)
        return torch.cat(
            [self._one(qk[:, i], v[:, i], buckets_BHRT[..., i], keys, values, start + i) for i in range(qk.shape[1])],
            dim=1,
        )

    def _one(
        self, q_BHD: Tensor, v_BHD: Tensor, bucket_BHR: Tensor, keys: Tensor, values: Tensor, position: int
    ) -> Tensor:
        assert self._newest_BHRNW is not None
        assert self._counts_BHRN is not None
        B, H, R = bucket_BHR.shape
        W = self._window
        slots = bucket_BHR[..., None, None].expand(B, H, R, 1, W)
        seen_BHK = self._newest_BHRNW.gather(3, slots).flatten(2).long()  # K = R * W positions, -1 for none
        batch, head = torch.arange(B)[:, None, None], torch.arange(H)[None, :, None]
        at = seen_BHK.clamp(min=0)
        scores_BHK = torch.einsum("bhd,bhkd->bhk", q_BHD, keys[batch, at, head])
        scores_BHK = scores_BHK.masked_fill(seen_BHK < 0, -torch.inf)
        lonely_BH1 = (seen_BHK < 0).all(-1, keepdim=True)
        weights_BHK = scores_BHK.masked_fill(lonely_BH1, 0.0).softmax(-1)
        out_BHD = torch.einsum("bhk,bhkd->bhd", weights_BHK, values[batch, at + self._brings_next, head])
        count_BHR1 = self._counts_BHRN.gather(3, bucket_BHR[..., None])
        here = torch.full((B, H, R, 1, 1), position, dtype=torch.int32, device=q_BHD.device)
        place = bucket_BHR[..., None] * W + count_BHR1 % W
        self._newest_BHRNW.view(B, H, R, -1).scatter_(3, place, here[..., 0])
        self._counts_BHRN.scatter_(3, bucket_BHR[..., None], count_BHR1 + 1)
        own_BHD = torch.zeros_like(v_BHD) if self._brings_next else v_BHD
        return torch.where(lonely_BH1, own_BHD, out_BHD)[:, None]

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
        newest = torch.full((B, H, R, N * W + 1), -1, dtype=torch.int32, device=counts.device)
        newest.scatter_(3, place_BHRT, position_BHRT.int())
        self._newest_BHRNW = newest[..., :-1].unflatten(3, (N, W)).contiguous()
        self._counts_BHRN = counts
