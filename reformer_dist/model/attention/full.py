"""Exact attention over the whole sequence, by torch's scaled_dot_product_attention.

In: queries, keys and values [B, T, H, D]. Out: [B, T, H, D]. Costs T^2 operations; memory too where documents or dropout
need a mask.

Legend: B batch, T tokens, H heads, D head dimension.
"""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from reformer_dist.model.backends.description import PADDING, AttentionDropout
from reformer_dist.model.context import Context
from reformer_dist.model.randomness import pair_keep, scramble, token_hash


def full_attention(
    q_BTHD: Tensor,
    k_BTHD: Tensor,
    v_BTHD: Tensor,
    *,
    causal: bool = True,
    context: Context | None = None,
    dropout: AttentionDropout | None = None,
) -> Tensor:
    """Attend to all tokens of the document (causal: up to the query itself), with scores q . k / sqrt(D).

    Args:
        q_BTHD: queries; keys and values have the same shape and dtype.
        k_BTHD: keys.
        v_BTHD: values.
        causal: whether a query sees only itself and earlier positions.
        context: documents and the shard's place; tokens see only their own document.
        dropout: of attention weights; None for none.

    """
    context = context or Context()
    q, k, v = (x.transpose(1, 2) for x in (q_BTHD, k_BTHD, v_BTHD))
    if dropout is not None:
        return _with_dropout(q, k, v, causal, context, dropout).transpose(1, 2)
    if context.documents_BT is None:
        return scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2)
    visible = _visible(context, causal, q)
    return scaled_dot_product_attention(q, k, v, attn_mask=visible).transpose(1, 2)


def _visible(context: Context, causal: bool, q_BHTD: Tensor) -> Tensor:
    """Which query sees which key, [B or 1, 1, T, T]; padding sees itself alone."""
    T, device = q_BHTD.shape[2], q_BHTD.device
    own = torch.eye(T, dtype=torch.bool, device=device)
    visible = torch.ones(T, T, dtype=torch.bool, device=device).tril() if causal else ~torch.zeros_like(own)
    documents_BT = context.documents_BT
    if documents_BT is None:
        return visible[None, None]
    same = (documents_BT[:, :, None] == documents_BT[:, None, :]) & (documents_BT != PADDING)[:, None, :]
    return (visible & same | own)[:, None]


def _with_dropout(
    q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, causal: bool, context: Context, dropout: AttentionDropout
) -> Tensor:
    B, H, T, D = q_BHTD.shape
    scores = (q_BHTD @ k_BHTD.transpose(-1, -2)) * D**-0.5
    weights = scores.masked_fill(~_visible(context, causal, q_BHTD), -torch.inf).softmax(-1)
    hashes_BT = token_hash(dropout.key, context.first_row, context.first_position, (B, T), q_BHTD.device)
    heads_H1 = torch.arange(context.first_head, context.first_head + H, device=q_BHTD.device)[:, None]
    hashes_BHT = scramble(hashes_BT[:, None] + heads_H1)
    keep = pair_keep(hashes_BHT[..., None], hashes_BHT[:, :, None, :], dropout.probability, weights.dtype)
    return (weights * keep) @ v_BHTD
