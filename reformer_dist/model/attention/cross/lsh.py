"""LSH cross-attention, see `CrossKind`: a query sees the keys of the source that share its bucket.

Queries and keys are projections of their own, of different streams, and hashed as they are by the same rotations: a bucket
depends on a vector's direction alone, and directions of a high score lie near each other. In each hash round a query sees
the keys of its own document and bucket, all of them up to `lsh_window`; of a fuller bucket those whose positions in their
document are nearest to its own. So it is exact wherever a window covers the bucket. Rounds are combined as in
self-attention, a key of several rounds counting in each.

What a query sees depends on the source and on itself, never on other queries: decoding sees the same.

Legend: B batch, T tokens of a piece of the target, S tokens of the source, H heads, D head dimension, R hash rounds, W
window, N slices (heads of sequences), K = R W keys.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from reformer_dist.model.attention.cross.kind import CrossKind, SourceHeads
from reformer_dist.model.attention.lsh.hashing import draw_rotations, hash_buckets
from reformer_dist.model.backends.description import PADDING
from reformer_dist.model.context import Context
from reformer_dist.model.randomness import Use, make_key


@dataclass(frozen=True)
class KeyOrder:
    """The keys of every hash round by document, bucket and position."""

    values_NRS: Tensor
    """These three as one number, ascending, int64."""
    keys_NRS: Tensor
    """The key at each place."""


class LSHCross(CrossKind):
    """A query sees the keys of its bucket; rotations are drawn anew in every training step."""

    def tokens_at_a_time(self, heads: SourceHeads) -> int:
        """See `CrossKind`."""
        B, S, H, D = heads.k_BSHD.shape
        keys = self.config.num_hashes * min(self.config.lsh_window, S)
        return max(1, self.budget.cross_gathered // (B * H * keys * D))

    def index(self, heads: SourceHeads, context: Context, training: bool) -> KeyOrder:
        """See `CrossKind`."""
        B, S = heads.k_BSHD.shape[:2]
        buckets_BHRS = self._hash(heads.k_BSHD, context, training)
        positions_BS = heads.positions_BS
        if positions_BS is None:
            positions_BS = torch.arange(S, device=buckets_BHRS.device).expand(B, -1)
        values_BHRS = self._values(buckets_BHRS, heads.documents_BS, positions_BS, torch.iinfo(torch.int64).max)
        values, keys = torch.sort(values_BHRS.flatten(0, 1), stable=True)
        return KeyOrder(values, keys)

    def find(self, q_BTHD: Tensor, context: Context, training: bool) -> Tensor:
        """See `CrossKind`: buckets [B, H, R, T]."""
        return self._hash(q_BTHD, context, training)

    def attend(
        self, q_BTHD: Tensor, heads: SourceHeads, index: KeyOrder, found: Tensor, context: Context, training: bool
    ) -> Tensor:
        """See `CrossKind`."""
        (B, _, H, D), S = q_BTHD.shape, heads.k_BSHD.shape[1]
        keys_NTK, visible_NTK = self._seen(index, found, context.documents_BT, context.positions_like(q_BTHD), S)
        rows_NTK = keys_NTK + torch.arange(B * H, device=keys_NTK.device)[:, None, None] * S
        k, v = (
            x.transpose(1, 2).reshape(-1, D).index_select(0, rows_NTK.flatten()).view(*rows_NTK.shape, D)
            for x in (heads.k_BSHD, heads.v_BSHD)
        )
        q_NTD = q_BTHD.transpose(1, 2).flatten(0, 1)
        scores_NTK = (k @ q_NTD[..., None])[..., 0] * D**-0.5
        seen_NT1 = visible_NTK.any(-1, keepdim=True)
        weights_NTK = scores_NTK.masked_fill(~visible_NTK & seen_NT1, -torch.inf).softmax(-1)
        keep = self.kept(q_BTHD, S, keys_NTK.unflatten(0, (B, H)), context, training)
        if keep is not None:
            weights_NTK = weights_NTK * keep.flatten(0, 1)
        out_NTD = (weights_NTK[:, :, None] @ v)[:, :, 0] * seen_NT1
        return out_NTD.unflatten(0, (B, H)).transpose(1, 2)

    def _seen(
        self, index: KeyOrder, found: Tensor, documents_BT: Tensor | None, positions_BT: Tensor, num_keys: int
    ) -> tuple[Tensor, Tensor]:
        """The keys that each query may see, [N, T, K], and whether it sees them."""
        own, begin, end = (
            torch.searchsorted(index.values_NRS, values_BHRT.flatten(0, 1))
            for values_BHRT in (
                self._values(found, documents_BT, positions_BT, -1),
                self._values(found, documents_BT, torch.zeros_like(positions_BT), -1),
                self._values(found, documents_BT, torch.full_like(positions_BT, self._most_positions), -1),
            )
        )
        W = min(self.config.lsh_window, num_keys)
        start_NRT = torch.maximum(begin, torch.minimum(own - W // 2, end - W))
        places_NRTW = start_NRT[..., None] + torch.arange(W, device=found.device)
        visible_NRTW = places_NRTW < end[..., None]
        keys_NRTW = index.keys_NRS.gather(2, places_NRTW.clamp(max=num_keys - 1).flatten(2)).view_as(places_NRTW)
        return tuple(x.transpose(1, 2).flatten(2) for x in (keys_NRTW, visible_NRTW))  # type: ignore[return-value]

    def _values(self, buckets_BHRT: Tensor, documents_BT: Tensor | None, positions_BT: Tensor, padding: int) -> Tensor:
        """Document, bucket and position as one number [B, H, R, T]; padding as given."""
        most = self._most_positions
        values = buckets_BHRT.long() * most + positions_BT.clamp(max=most)[:, None, None]
        if documents_BT is None:
            return values
        documents = documents_BT[:, None, None]
        per_document = math.prod(self.config.encoder.bucket_factors) * most
        return (values + documents * per_document).masked_fill(documents == PADDING, padding)

    @property
    def _most_positions(self) -> int:
        """Positions in a source, and one more that none has."""
        return self.config.encoder.max_length + 1

    def _hash(self, x_BTHD: Tensor, context: Context, training: bool) -> Tensor:
        config, factors = self.config, self.config.encoder.bucket_factors
        key = make_key(config.seed, context.step if training else 0, self.layer, Use.CROSS_ROTATIONS)
        rotations = draw_rotations(key, config.head_width, config.num_hashes, factors)
        return hash_buckets(x_BTHD.detach(), rotations, factors, config.attention_kernel, self.budget)
