"""Plain references for attention, positions and reversible blocks: every rule is a mask over [T, T] or one equation.

In: the same tensors as the fast paths, in float64. Out: the same results, by plain autograd, in T x T time and memory.
Nothing here imports the package, so that the two can only agree by both being right.

Shapes: B batch, T tokens, H heads, D head width, R hash rounds, W window or chunk length, E = R x T entries of the
sorted list (in `lsh_chunked`) or model width (in positions). A mask reads [..., query i, key j]. `counts[..., i, j]` is
how often query i sees key j; `keep` is a dropout mask M over weights, already divided by the keep probability.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

MASKED = -1e9
"""Score of a key that `lsh_chunked` hides for causality, padding or packing."""
MASKED_SELF = -1e5
"""Score of a token's own key in `lsh_chunked`."""
ATOL = 1e-9
"""Tolerance where `lsh_chunked` takes part: float64 numbers are 1.5e-11 apart at the mask of a token's own key."""


# Hashing, scores and the masks that the modes share.


def hash_buckets(qk_BTHD: Tensor, rotations: Tensor, num_buckets: int | Sequence[int]) -> Tensor:
    """Return int64 buckets [B, H, R, T]; rotations are [D, R, sum(factors) / 2], or [H, D, R, ...] by head."""
    factors = (num_buckets,) if isinstance(num_buckets, int) else tuple(num_buckets)
    rotations_HDRC = rotations if rotations.ndim == 4 else rotations.expand(qk_BTHD.shape[2], *rotations.shape)
    rotated_BHRTC = torch.einsum("bthd,hdrc->bhrtc", qk_BTHD.detach(), rotations_HDRC)
    buckets_BHRT = torch.zeros(rotated_BHRTC.shape[:-1], dtype=torch.int64)
    if factors == (1,):
        return buckets_BHRT
    stride, column = 1, 0
    for factor in factors:
        x = rotated_BHRTC[..., column : column + factor // 2]
        buckets_BHRT += stride * torch.cat([x, -x], dim=-1).argmax(dim=-1)
        stride, column = stride * factor, column + factor // 2
    return buckets_BHRT


def shared_scores(qk_BTHD: Tensor) -> Tensor:
    """s_ij = q_i . k_j with q = qk and k = qk / rms(qk) / sqrt(D), [B, H, T, T]."""
    k_BTHD = qk_BTHD * torch.rsqrt(qk_BTHD.square().mean(dim=-1, keepdim=True) + 1e-6) / math.sqrt(qk_BTHD.shape[-1])
    return torch.einsum("bihd,bjhd->bhij", qk_BTHD, k_BTHD)


def scaled_scores(q_BTHD: Tensor, k_BTHD: Tensor) -> Tensor:
    """s_ij = q_i . k_j / sqrt(D), [B, H, T, T]."""
    return torch.einsum("bihd,bjhd->bhij", q_BTHD, k_BTHD) / math.sqrt(q_BTHD.shape[-1])


def same_document(documents_BT: Tensor) -> Tensor:
    """Whether i and j are of one document and not padding (-1), [B, T, T]."""
    return (documents_BT[:, :, None] == documents_BT[:, None, :]) & (documents_BT >= 0)[:, None, :]


def attend(
    scores_BHTT: Tensor,
    counts_BHTT: Tensor,
    v_BTHD: Tensor,
    keep_BHTT: Tensor | None = None,
    *,
    own_value: bool = True,
) -> Tensor:
    """out_i = sum_j M_ij p_ij v_j with p = softmax_j(s_ij + log n_ij); a row that sees nothing gets its own value, or 0."""
    alone = (counts_BHTT == 0).all(dim=-1, keepdim=True)
    counts = torch.where(alone, torch.eye(counts_BHTT.shape[-1]), counts_BHTT)
    p = torch.softmax(scores_BHTT + counts.to(scores_BHTT.dtype).log(), dim=-1)
    weights = p if keep_BHTT is None else keep_BHTT * p
    if not own_value:
        weights = weights.masked_fill(alone, 0.0)
    return torch.einsum("bhij,bjhd->bihd", weights, v_BTHD)


def _ij(x: Tensor) -> tuple[Tensor, Tensor]:
    """View [..., T] once as queries [..., T, 1] and once as keys [..., 1, T]."""
    return x[..., :, None], x[..., None, :]


def _place(key: Tensor) -> Tensor:
    """Place of each element of [..., T] in ascending order: the number of smaller ones (all are different)."""
    i, j = _ij(key)
    return (j < i).sum(dim=-1)


def _documents_or_zeros(documents_BT: Tensor | None, x_BTHD: Tensor) -> Tensor:
    return torch.zeros(x_BTHD.shape[:2], dtype=torch.int64) if documents_BT is None else documents_BT


# LSH attention: queries and keys are shared, a token never sees itself unless it sees nothing else.


def lsh_window(
    qk_BTHD: Tensor,
    v_BTHD: Tensor,
    buckets_BHRT: Tensor,
    window: int,
    *,
    documents_BT: Tensor | None = None,
    causal: bool = True,
    keep_BHTT: Tensor | None = None,
    own_value: bool = True,
) -> Tensor:
    """In each round a query sees the W tokens of its document and bucket before it (and after it, if not causal)."""
    documents_BT = _documents_or_zeros(documents_BT, qk_BTHD)
    b_i, b_j = _ij(buckets_BHRT)
    i, j = _ij(torch.arange(qk_BTHD.shape[1]))
    together = (b_i == b_j) & same_document(documents_BT)[:, None, None]
    order_i, order_j = _ij((together & (j < i)).sum(dim=-1))  # place among the tokens of one document and bucket
    visible = together & (j != i) & ((order_i - order_j).abs() <= window)
    if causal:
        visible = visible & (j < i)
    return attend(shared_scores(qk_BTHD), visible.sum(dim=2), v_BTHD, keep_BHTT, own_value=own_value)


def lsh_paper(
    qk_BTHD: Tensor,
    v_BTHD: Tensor,
    buckets_BHRT: Tensor,
    window: int,
    *,
    documents_BT: Tensor | None = None,
    causal: bool = True,
    keep_BHTT: Tensor | None = None,
) -> Tensor:
    """Kitaev et al. 2020, equations 13-16: same bucket, own or previous chunk, each pair once over all rounds."""
    documents_BT = _documents_or_zeros(documents_BT, qk_BTHD)
    b_i, b_j = _ij(buckets_BHRT)
    i, j = _ij(torch.arange(qk_BTHD.shape[1]))
    chunk_i, chunk_j = _ij(_place(_sort_key(buckets_BHRT, documents_BT)) // window)
    near = (chunk_j == chunk_i) | (chunk_j == chunk_i - 1)
    visible = near & (b_i == b_j) & same_document(documents_BT)[:, None, None] & (j != i)
    if causal:
        visible = visible & (j < i)
    # Equation 16 divides by N_ij, the rounds in which i sees j, and sums over those rounds: each pair has weight one.
    return attend(shared_scores(qk_BTHD), visible.any(dim=2), v_BTHD, keep_BHTT)


def lsh_chunked(
    qk_BTHD: Tensor,
    v_BTHD: Tensor,
    buckets_BHRT: Tensor,
    window: int,
    *,
    documents_BT: Tensor | None = None,
    causal: bool = True,
    keep_BHTT: Tensor | None = None,
    chunks_before: int = 1,
    chunks_after: int = 0,
) -> Tensor:
    """Chunks of all rounds' sorted tokens in one circular list, no bucket mask; Hugging Face's LSHSelfAttention.

    An entry e = (round r, token t) sees the entries of its own and neighbouring chunks, as often as a chunk is met
    (with two chunks the one before is also the one after). Entries stay in the order (r, t): sorting is only a place.
    """
    num_tokens, num_rounds = qk_BTHD.shape[1], buckets_BHRT.shape[2]
    padding = -num_tokens % window
    documents_BT = pad(_documents_or_zeros(documents_BT, qk_BTHD), (0, padding), value=-1)
    v_BTHD = pad(v_BTHD, (0, 0, 0, 0, 0, padding))
    scores_BHTT = pad(shared_scores(qk_BTHD), (0, padding, 0, padding))
    key_BHRT = _sort_key(pad(buckets_BHRT, (0, padding)), documents_BT)
    key_BHRT = key_BHRT + torch.arange(num_rounds)[:, None] * (key_BHRT.max() + 1)

    chunk_i, chunk_j = _ij(_place(key_BHRT.flatten(2)) // window)
    num_chunks = num_rounds * (num_tokens + padding) // window
    seen = [(chunk_i + step) % num_chunks for step in range(-chunks_before, chunks_after + 1)]
    counts_BHEE = torch.stack([chunk == chunk_j for chunk in seen]).sum(dim=0)
    i, j = _ij(torch.arange(num_tokens + padding))
    hidden_BTT = ~same_document(documents_BT) | (causal & (j > i))
    scores_BHTT = torch.where(hidden_BTT[:, None], MASKED, scores_BHTT)
    scores_BHTT = torch.where(i == j, MASKED_SELF, scores_BHTT)
    scores_BHEE = scores_BHTT.repeat(1, 1, num_rounds, num_rounds) + counts_BHEE.to(scores_BHTT.dtype).log()

    lse_BHE = scores_BHEE.logsumexp(dim=-1)
    p_BHEE = torch.exp(scores_BHEE - lse_BHE[..., None])
    if keep_BHTT is not None:
        p_BHEE = p_BHEE * pad(keep_BHTT, (0, padding, 0, padding)).repeat(1, 1, num_rounds, num_rounds)
    out_BHED = torch.einsum("bhef,bfhd->bhed", p_BHEE, v_BTHD.repeat(1, num_rounds, 1, 1))

    share_BHRT = torch.softmax(lse_BHE.view(key_BHRT.shape), dim=2)  # exp(lse_r - LSE)
    out_BTHD = torch.einsum("bhrt,bhrtd->bthd", share_BHRT, out_BHED.view(*key_BHRT.shape, -1))
    return out_BTHD[:, :num_tokens]


def _sort_key(buckets_BHRT: Tensor, documents_BT: Tensor) -> Tensor:
    """A number that orders each round by (document, bucket, position), with padding behind everything."""
    documents_B11T = documents_BT[:, None, None]
    documents_B11T = torch.where(documents_B11T < 0, documents_B11T.max() + 1, documents_B11T)
    num_tokens = buckets_BHRT.shape[-1]
    segments_BHRT = documents_B11T * (buckets_BHRT.max() + 1) + buckets_BHRT * (documents_BT >= 0)[:, None, None]
    return segments_BHRT * num_tokens + torch.arange(num_tokens)


LSH_MODES = {"window": lsh_window, "chunked": lsh_chunked, "paper": lsh_paper}
"""The references by the configuration's `lsh_mode`."""


# Local and full attention: separate queries and keys, a token sees itself.


def full_attention(
    q_BTHD: Tensor,
    k_BTHD: Tensor,
    v_BTHD: Tensor,
    *,
    documents_BT: Tensor | None = None,
    causal: bool = True,
    keep_BHTT: Tensor | None = None,
) -> Tensor:
    """A query sees every token of its document up to itself (or all of them, if not causal)."""
    i, j = _ij(torch.arange(q_BTHD.shape[1]))
    visible = same_document(_documents_or_zeros(documents_BT, q_BTHD))[:, None]
    if causal:
        visible = visible & (j <= i)
    return attend(scaled_scores(q_BTHD, k_BTHD), visible, v_BTHD, keep_BHTT)


def local_window(
    q_BTHD: Tensor,
    k_BTHD: Tensor,
    v_BTHD: Tensor,
    window: int,
    *,
    documents_BT: Tensor | None = None,
    causal: bool = True,
    keep_BHTT: Tensor | None = None,
) -> Tensor:
    """Causal: a query sees the last W tokens, itself included; otherwise the tokens at a distance of at most W."""
    i, j = _ij(torch.arange(q_BTHD.shape[1]))
    near = (i - window < j) & (j <= i) if causal else (i - j).abs() <= window
    visible = near & same_document(_documents_or_zeros(documents_BT, q_BTHD))[:, None]
    return attend(scaled_scores(q_BTHD, k_BTHD), visible, v_BTHD, keep_BHTT)


def local_chunked(
    q_BTHD: Tensor,
    k_BTHD: Tensor,
    v_BTHD: Tensor,
    window: int,
    *,
    documents_BT: Tensor | None = None,
    causal: bool = True,
    keep_BHTT: Tensor | None = None,
    chunks_before: int = 1,
    chunks_after: int | None = None,
    circular: bool = False,
) -> Tensor:
    """A query sees its own and neighbouring chunks of W tokens; by default one before and, if not causal, one after.

    `circular` joins the last chunk to the first, as Hugging Face's LocalSelfAttention does: without a causal mask the
    first chunk then sees the last one, and with few chunks a chunk is met, and counts, more than once.
    """
    chunks_after = int(not causal) if chunks_after is None else chunks_after
    num_tokens = q_BTHD.shape[1]
    i, j = _ij(torch.arange(num_tokens))
    num_chunks = -(-num_tokens // window)
    steps = range(-chunks_before, chunks_after + 1)
    seen = [i // window + step for step in steps]
    counts = torch.stack([(chunk % num_chunks if circular else chunk) == j // window for chunk in seen]).sum(dim=0)
    visible = same_document(_documents_or_zeros(documents_BT, q_BTHD))[:, None]
    if causal:
        visible = visible & (j <= i)
    return attend(scaled_scores(q_BTHD, k_BTHD), counts * visible, v_BTHD, keep_BHTT)


LOCAL_MODES = {"window": local_window, "chunked": local_chunked}
"""The references by the configuration's `local_mode`."""


# The rest of a block.


def reference_axial_positions(
    weights: Sequence[Tensor], shape: Sequence[int], dims: Sequence[int], positions_BT: Tensor
) -> Tensor:
    """Row-major coordinates of a position pick a row of each factor [shape_f, dims_f]; joined, they are [B, T, E]."""
    rows = []
    for factor, (weight, length, width) in enumerate(zip(weights, shape, dims, strict=True)):
        assert weight.shape == (length, width)
        rows.append(weight[positions_BT // math.prod(shape[factor + 1 :]) % length])
    return torch.cat(rows, dim=-1)


def reference_reversible(
    x: Tensor, fs: Sequence[Callable[[Tensor], Tensor]], gs: Sequence[Callable[[Tensor], Tensor]]
) -> tuple[Tensor, Tensor]:
    """Both streams start as x; each layer is y1 = x1 + F(x2), y2 = x2 + G(y1). Returns the two streams."""
    x1, x2 = x, x
    for f, g in zip(fs, gs, strict=True):
        x1 = x1 + f(x2)
        x2 = x2 + g(x1)
    return x1, x2
