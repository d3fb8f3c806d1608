"""Exact cross-attention, see `CrossKind`: torch's scaled_dot_product_attention, over the keys of a query's document.

Legend: B batch, T tokens of a piece of the target, S tokens of the source, H heads, D head dimension.
"""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from reformer_dist.model.attention.cross.kind import CrossKind, SourceHeads
from reformer_dist.model.backends.description import PADDING
from reformer_dist.model.context import Context


class FullCross(CrossKind):
    """A query sees every token of its document's source."""

    def tokens_at_a_time(self, heads: SourceHeads) -> int:
        """See `CrossKind`."""
        B, S, H, _ = heads.k_BSHD.shape
        return max(1, self.budget.cross_scores // (B * S * H))

    def attend(
        self, q_BTHD: Tensor, heads: SourceHeads, index: None, found: None, context: Context, training: bool
    ) -> Tensor:
        """See `CrossKind`."""
        S = heads.k_BSHD.shape[1]
        keep = self.kept(q_BTHD, S, None, context, training)
        q, k, v = (x.transpose(1, 2) for x in (q_BTHD, heads.k_BSHD, heads.v_BSHD))
        if heads.documents_BS is None:
            return _attend(q, k, v, None, keep).transpose(1, 2)
        documents_BT = context.documents_BT
        if documents_BT is None:
            documents_BT = torch.zeros(q_BTHD.shape[:2], dtype=torch.int64, device=q_BTHD.device)
        if q_BTHD.shape[1] == 1:  # decoding: one document a row
            visible = (documents_BT[:, :, None] == heads.documents_BS[:, None])[:, None]
            return _attend(q, k, v, visible, keep).transpose(1, 2)
        rows = []
        for row, (own_T, theirs_S) in enumerate(zip(documents_BT, heads.documents_BS, strict=True)):
            one, near = slice(row, row + 1), _near(own_T, theirs_S)
            visible_TS = (own_T[:, None] == theirs_S[near]) & (own_T != PADDING)[:, None]
            kept = None if keep is None else keep[one, ..., near]
            rows.append(_attend(q[one], k[one, :, near], v[one, :, near], visible_TS, kept))
        return torch.cat(rows).transpose(1, 2)


def _near(own_T: Tensor, theirs_S: Tensor) -> slice:
    """The keys among which all lie that some queries may see. On a GPU all keys, as nothing there is known on the CPU."""
    if own_T.device.type != "cpu":
        return slice(None)
    real_T = own_T[own_T != PADDING]
    if not len(real_T):
        return slice(0, 1)
    places = torch.nonzero((theirs_S >= real_T.min()) & (theirs_S <= real_T.max()))
    return slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 1)


def _attend(q: Tensor, k: Tensor, v: Tensor, visible_TS: Tensor | None, keep: Tensor | None) -> Tensor:
    """Results [B, H, T, D] of queries, keys and values [B, H, ., D]."""
    seen_T1 = None
    if visible_TS is not None:  # a query that sees nothing looks anywhere, and gets nothing of it
        seen_T1 = visible_TS.any(-1, keepdim=True)
        visible_TS = visible_TS | ~seen_T1
    if keep is None:
        out = scaled_dot_product_attention(q, k, v, attn_mask=visible_TS)
    else:
        scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
        if visible_TS is not None:
            scores = scores.masked_fill(~visible_TS, -torch.inf)
        out = (scores.softmax(-1) * keep) @ v
    return out if seen_T1 is None else out * seen_T1
