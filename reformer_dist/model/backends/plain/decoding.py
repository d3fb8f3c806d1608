"""One token more, of every row of a batch, in plain torch: what decoding asks for at each step; see `Backend`.

Legend: B batch, E width, N outputs, K taps or keys, H heads, D head dimension, X of a row, R hash rounds, C capacity of a
memory, W window, F pairs of features.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear, rms_norm

from reformer_dist.model.backends.description import FiledTokens, StreamNorm, unit_keys
from reformer_dist.model.backends.plain.hashing import hash_by_rotations


def next_projections(
    x_BE: Tensor, norm: StreamNorm, weights: Sequence[Tensor], biases: Sequence[Tensor]
) -> list[Tensor]:
    """See `Backend`."""
    x_BE = _normalised(x_BE, norm)
    if not biases:
        return [linear(x_BE, weight) for weight in weights]
    return [linear(x_BE, weight, bias) for weight, bias in zip(weights, biases, strict=True)]


def next_product(x_BN: Tensor, weight_EN: Tensor, bias_E: Tensor | None) -> Tensor:
    """See `Backend`."""
    return linear(x_BN, weight_EN, bias_E)


def next_of_newest(
    q_BHD: Tensor,
    k_BHD: Tensor,
    v_BHD: Tensor,
    rows: Tensor,
    positions_B: Tensor,
    oldest_B: Tensor,
    waves_BF: Tensor | None,
) -> Tensor:
    """See `Backend`."""
    D, C = q_BHD.shape[-1], rows.shape[2]
    batch_B = torch.arange(len(rows), device=rows.device)
    rows[batch_B, :, positions_B % C] = torch.cat([_turned(k_BHD, waves_BF), v_BHD], dim=-1)
    q_BHD = _turned(q_BHD, waves_BF) * D**-0.5
    longest = int((positions_B - oldest_B).max()) + 1
    places_BK = positions_B[:, None] - torch.arange(longest, device=rows.device)
    is_seen_BK = places_BK >= oldest_B[:, None]
    seen_BKHX = rows[batch_B[:, None], :, places_BK % C]
    return _attend(q_BHD, seen_BKHX.transpose(1, 2), is_seen_BK[:, None])


def next_buckets(qk_BHD: Tensor, rotations_HDRF: Tensor, factors: Sequence[int]) -> Tensor:
    """See `Backend`."""
    rotations = rotations_HDRF[0] if len(rotations_HDRF) == 1 else rotations_HDRF
    return hash_by_rotations(qk_BHD[:, None], rotations, factors, qk_BHD.numel() * rotations.numel())[..., 0].int()


def next_of_buckets(
    qk_BHD: Tensor,
    v_BHD: Tensor,
    buckets_BHR: Tensor,
    filed: FiledTokens,
    positions_B: Tensor,
    waves_BF: Tensor | None,
) -> Tensor:
    """See `Backend`."""
    rows, newest_BHRNW, counts_BHRN, brings_next = filed.rows, filed.newest_BHRNW, filed.counts_BHRN, filed.brings_next
    (B, H, R), W, D = buckets_BHR.shape, newest_BHRNW.shape[-1], qk_BHD.shape[-1]
    batch_B11, head_H1 = (
        torch.arange(B, device=rows.device)[:, None, None],
        torch.arange(H, device=rows.device)[:, None],
    )
    qk_BHD = _turned(qk_BHD, waves_BF)
    bringing_B1 = (positions_B - int(brings_next))[:, None]
    values_BHD = torch.where(bringing_B1[..., None] >= 0, v_BHD, rows[:, :, 0, D:])
    rows[batch_B11[..., 0], head_H1[:, 0], bringing_B1.clamp(min=0), D:] = values_BHD
    here_BHR = batch_B11, head_H1, torch.arange(R, device=rows.device), buckets_BHR.long()
    counts_BHR = counts_BHRN[here_BHR]
    is_seen_BHRW = torch.arange(W, device=rows.device) < counts_BHR[..., None]
    places_BHK = torch.where(is_seen_BHRW, newest_BHRNW[here_BHR], 0).flatten(2).long()
    seen_BHKX, is_seen_BHK = rows[batch_B11, head_H1, places_BHK], is_seen_BHRW.flatten(2)
    newest_BHRNW[(*here_BHR, (counts_BHR % W).long())] = positions_B.int()[:, None, None].expand(B, H, R)
    counts_BHRN[here_BHR] = counts_BHR + 1
    own_BHD = torch.zeros_like(v_BHD) if brings_next else v_BHD
    lonely_BH1 = ~is_seen_BHK.any(-1, keepdim=True)
    out_BHD = torch.where(lonely_BH1, own_BHD, _attend(qk_BHD, seen_BHKX, is_seen_BHK | lonely_BH1))
    rows[batch_B11[..., 0], head_H1[:, 0], positions_B[:, None], :D] = unit_keys(qk_BHD)
    return out_BHD


def next_probabilities(logits_BV: Tensor) -> Tensor:
    """See `Backend`."""
    return logits_BV.softmax(-1)


def _normalised(x_BE: Tensor, norm: StreamNorm) -> Tensor:
    weight_E, bias_E = norm.weight_E, norm.bias_E
    if bias_E is None:
        x_BE = rms_norm(x_BE, weight_E.shape, weight_E, norm.eps)
    else:
        x_BE = layer_norm(x_BE, weight_E.shape, weight_E, bias_E, norm.eps)
    if norm.taps_E1K is None:
        return x_BE
    assert norm.recent_BKE is not None
    near_BKE = torch.cat([norm.recent_BKE, x_BE[:, None]], dim=1)
    norm.recent_BKE.copy_(near_BKE[:, 1:])
    return x_BE + torch.einsum("bke,ek->be", near_BKE, norm.taps_E1K[:, 0])


def _attend(q_BHD: Tensor, rows_BHKX: Tensor, is_seen_BHK: Tensor) -> Tensor:
    """softmax(q . keys) values, of rows [B, H, K, 2 D]."""
    keys_BHKD, values_BHKD = rows_BHKX.chunk(2, dim=-1)
    scores_BHK = torch.einsum("bhd,bhkd->bhk", q_BHD, keys_BHKD).masked_fill(~is_seen_BHK, -torch.inf)
    return torch.einsum("bhk,bhkd->bhd", scores_BHK.softmax(-1), values_BHKD.masked_fill(~is_seen_BHK[..., None], 0.0))


def _turned(x_BHD: Tensor, waves_BF: Tensor | None) -> Tensor:
    """Pairs of features turned by their waves."""
    if waves_BF is None:
        return x_BHD
    width = 2 * waves_BF.shape[-1]
    pairs_BHF = torch.view_as_complex(x_BHD[..., :width].unflatten(-1, (-1, 2)).contiguous())
    turned = torch.view_as_real(pairs_BHF * waves_BF[:, None]).flatten(-2)
    return torch.cat([turned, x_BHD[..., width:]], dim=-1)
