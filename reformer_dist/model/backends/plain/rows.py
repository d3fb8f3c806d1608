"""The plain backend among rows that came from several workers in one hash round.

In: rows and their order. Out: outputs with log-sum-exps, or gradients, of each row in the order that the rows came.

Legend: D head dimension, N slices (heads of sequences), S places of a worker's part of the order with its halo, M rows,
X columns.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from reformer_dist.model.backends.description import NO_ROW, OrderedRows, unit_keys
from reformer_dist.model.backends.packing import pack, statistics_dtype, unpack
from reformer_dist.model.backends.plain.arithmetic import Arithmetic
from reformer_dist.model.backends.plain.blocks import OrderedList, Stretch, stretches
from reformer_dist.model.randomness import scramble


def attend(vectors: Tensor, rows: OrderedRows, arithmetic: Arithmetic) -> Tensor:
    """See `Backend.attend_rows`."""
    qk_NSD, v_NSD = rows.lay_out(vectors).chunk(2, dim=-1)
    k_NSD = unit_keys(qk_NSD)
    out_NSD = torch.zeros_like(v_NSD, memory_format=torch.contiguous_format)
    lse_NS1 = torch.zeros(*v_NSD.shape[:2], 1, dtype=statistics_dtype(v_NSD), device=v_NSD.device)
    for part in _stretches(rows, v_NSD.dtype):
        blocks, places = part.blocks, part.places
        query, key, value = (
            blocks.queries(qk_NSD[:, places]),
            blocks.keys(k_NSD[:, places]),
            blocks.keys(v_NSD[:, places]),
        )
        out, lse = arithmetic.forward(query, key, value, part.mask_NCWK, part.keep_NCWK)
        blocks.queries(out_NSD[:, places]).copy_(out)
        blocks.queries(lse_NS1[:, places]).copy_(lse[..., None])
    own = _places(rows)[rows.own]
    return pack(out_NSD.flatten(0, 1)[own], lse_NS1.flatten(0, 1)[own])


def attend_backward(vectors: Tensor, outputs: Tensor, rows: OrderedRows, arithmetic: Arithmetic) -> Tensor:
    """See `Backend.attend_rows_backward`."""
    grad_MD, statistics = unpack(outputs, vectors.shape[1] // 2)
    qk_NSD, v_NSD = rows.lay_out(vectors).chunk(2, dim=-1)
    grad_NSD = rows.lay_out(grad_MD)
    delta_NS1, lse_NS1 = rows.lay_out(statistics).chunk(2, dim=-1)
    with torch.enable_grad():
        leaf_NSD = qk_NSD.detach().requires_grad_()
        k_NSD = unit_keys(leaf_NSD)
    keys_NSD = k_NSD.detach()
    dq, dk, dv = (torch.zeros_like(v_NSD, memory_format=torch.contiguous_format) for _ in range(3))
    out_NSD = _output_with(delta_NS1, grad_NSD)
    places_S = torch.arange(v_NSD.shape[1], device=v_NSD.device)
    is_halo_S = (places_S < rows.queries[0]) | (places_S >= rows.queries[1])
    for part in _stretches(rows, v_NSD.dtype):
        blocks, places = part.blocks, part.places
        lse = blocks.queries(lse_NS1[:, places, 0])
        dq_part, dk_part, dv_part = arithmetic.backward(
            blocks.queries(grad_NSD[:, places]).contiguous(),
            blocks.queries(qk_NSD[:, places]),
            blocks.keys(keys_NSD[:, places]),
            blocks.keys(v_NSD[:, places]),
            blocks.queries(out_NSD[:, places]),
            lse.masked_fill(blocks.queries(is_halo_S[None, places]), torch.inf),
            part.mask_NCWK,
            part.keep_NCWK,
        )
        blocks.queries(dq[:, places]).add_(dq_part)
        dk[:, places] += blocks.add_keys(dk_part)
        dv[:, places] += blocks.add_keys(dv_part)
    dqk = dq + torch.autograd.grad(k_NSD, leaf_NSD, dk)[0]
    return torch.cat([dqk, dv], dim=-1).flatten(0, 1)[_places(rows)]


def _stretches(rows: OrderedRows, dtype: torch.dtype) -> Iterator[Stretch]:
    hashes_NS = None if rows.hashes_M is None else scramble(rows.lay_out(rows.hashes_M))
    ordered = OrderedList(rows.order_NS, rows.segments_of_places(), hashes_NS)
    return stretches(ordered, rows, dtype, slices_counted=rows.order_NS.shape[0])


def _places(rows: OrderedRows) -> Tensor:
    """Place of each received row among the N * S, [M] int64."""
    places = torch.nonzero(rows.order_NS.flatten() != NO_ROW)[:, 0]
    return torch.empty_like(places).scatter_(0, rows.order_NS.flatten()[places].long(), places)


def _output_with(delta_NS1: Tensor, grad_NSD: Tensor) -> Tensor:
    """Some vector whose product with the gradient is delta: all that the arithmetic needs of the combined output."""
    largest = grad_NSD.abs().amax(-1, keepdim=True)
    largest = torch.where(largest == 0, 1.0, largest)
    direction = grad_NSD / largest
    length = direction.square().sum(-1, keepdim=True)
    return direction * (delta_NS1.to(grad_NSD.dtype) / largest / torch.where(length == 0, 1.0, length))
