"""Descriptions of ordered blocks as lists of panels, which the Triton kernels take.

In: whole sequences, whose tokens are put in order by torch, or rows in a given order. Out: `Lists`.

Legend: B batch, T tokens, H heads, D head dimension, N slices (heads of sequences), R hash rounds, M rows (B * T * H, or
those that came), S places of an order, P places of a round, panels of padding included.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from reformer_dist.model.backends.description import NO_KEY, NO_ROW, OrderedBlocks, OrderedRows, OrderedTokens
from reformer_dist.model.backends.orders import Orders
from reformer_dist.model.backends.triton.launch import Lists, panels_within, pick_block
from reformer_dist.model.randomness import scramble


def lists_of_tokens(blocks: OrderedTokens, q_BTHD: Tensor) -> Lists:
    """The rounds' orders, cut into panels: whole chunks, each filled up, or where the reach rules just the places."""
    rule, (B, T, H, D) = blocks.rule, q_BTHD.shape
    assert rule.circular == (rule.reach is None)
    assert not rule.once
    orders = Orders(blocks, q_BTHD)
    block = _pick_block(blocks, D, q_BTHD.dtype)
    chunk = rule.block if rule.reach is None else block
    num_chunks = math.ceil(T / chunk) + rule.empty
    slices_N1 = torch.arange(B * H, device=q_BTHD.device)[:, None]
    first_row_N1 = slices_N1 // H * (T * H) + slices_N1 % H
    rows, segments = [], []
    for index in range(blocks.num_rounds):
        tokens_NT, segments_NT = orders.sorted_round(index)
        rows.append(_cut(first_row_N1 + tokens_NT * H, NO_ROW, chunk, num_chunks, block))
        if segments_NT is not None:
            segments.append(_cut(segments_NT, NO_KEY, chunk, num_chunks, block))
    hashes_M = None
    if blocks.dropout is not None:
        hashes_M = orders.token_hashes(0, B * H).unflatten(0, (-1, H)).transpose(1, 2).flatten()
    segments_NRP = torch.stack(segments, dim=1) if segments else None
    return _lists(blocks, torch.stack(rows, dim=1), segments_NRP, hashes_M, block)


def lists_of_rows(rows: OrderedRows, qk_MD: Tensor) -> Lists:
    """The given order, cut into panels, of which some hold queries."""
    (first, last), places = rows.queries, rows.order_NS.shape[1]
    block = _pick_block(rows, qk_MD.shape[1], qk_MD.dtype)
    num_panels = math.ceil(places / block)
    rows_NP = _cut(rows.order_NS, NO_ROW, block, num_panels, block)
    segments_NP = _cut(rows.segments_of_places(), NO_KEY, block, num_panels, block)
    hashes_M = None if rows.hashes_M is None else scramble(rows.hashes_M)
    panels = (first // block, math.ceil(last / block))
    return _lists(rows, rows_NP[:, None].contiguous(), segments_NP[:, None].contiguous(), hashes_M, block, panels)


def _pick_block(blocks: OrderedBlocks, head_dim: int, dtype: torch.dtype) -> int:
    """Places of a panel: what a query looks through, if a program can hold it."""
    rule = blocks.rule
    return pick_block(rule.block if rule.reach is None else rule.reach[1] - rule.reach[0] + 1, head_dim, dtype)


def _cut(x_NS: Tensor, nothing: int, chunk: int, num_chunks: int, block: int) -> Tensor:
    """Chunks, each filled up to whole panels of `block` places with `nothing`, [N, S] -> [N, P] int32."""
    filled = pad(x_NS.int(), (0, num_chunks * chunk - x_NS.shape[1]), value=nothing)
    return pad(filled.unflatten(1, (num_chunks, chunk)), (0, -chunk % block), value=nothing).flatten(1)


def _lists(
    blocks: OrderedBlocks,
    rows_NRP: Tensor,
    segments_NRP: Tensor | None,
    hashes_M: Tensor | None,
    block: int,
    query_panels: tuple[int, int] | None = None,
) -> Lists:
    rule, dropout = blocks.rule, blocks.dropout
    before, after = (rule.before, rule.after) if rule.reach is None else panels_within(rule.reach, block)
    return Lists(
        rows_NRP,
        segments_NRP,
        hashes_M,
        block,
        math.ceil(rule.block / block) if rule.reach is None else 1,
        before,
        after,
        rule.reach,
        rule.compare,
        query_panels,
        0 if dropout is None else dropout.threshold,
        1.0 if dropout is None else dropout.scale,
    )
