"""Attention of the tokens that came to one worker in one hash round: outputs and log-sum-exps, or gradients.

In: received rows and their route. Out: a row for each, in the order that they came, to travel back. The compiled operators
serve float32 and float64 on the CPU, the Triton kernels float32 and bfloat16 on a GPU; everything else goes through the
kernels of `block_attention`, some blocks at a time.

Legend: D head dimension, N slices (heads of sequences), S places of a worker's part of the order with its halo, M rows,
C blocks, W block length, K keys a block sees.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import pad

from reformer_dist.model.backends.native import build
from reformer_dist.model.backends.plain.blocks import Blocks
from reformer_dist.model.backends.plain.kernels import pick_kernel, statistics_dtype
from reformer_dist.model.backends.plans import AttentionDropout, Rule
from reformer_dist.model.backends.segments import unit_keys
from reformer_dist.model.backends.triton import launch
from reformer_dist.model.randomness import keep_threshold, mix, pair_keep
from reformer_dist.parallel.buckets.routing import NO_KEY, NO_ROW, Route
from reformer_dist.parallel.collectives import Traffic

_ENTRIES_IN_A_STRETCH = 1 << 14


class Settings:
    """What all rounds share."""

    def __init__(
        self, rule: Rule, group: dist.ProcessGroup, traffic: Traffic, dropout: AttentionDropout | None, kernel: str
    ) -> None:
        self.rule, self.group, self.traffic, self.dropout, self.kernel = rule, group, traffic, dropout, kernel

    def is_native(self, x: Tensor) -> bool:
        """Whether the compiled operators take this tensor."""
        return self.kernel == "auto" and build.serves(x)

    def is_on_gpu(self, x: Tensor, head_dim: int) -> bool:
        """Whether the Triton kernels take vectors of this tensor."""
        return self.kernel == "auto" and launch.serves(x, head_dim)


def attend(route: Route, received: Tensor, settings: Settings) -> Tensor:
    """Outputs and log-sum-exps of this worker's queries among the rows [M, 2 D], packed."""
    if settings.is_native(received):
        return torch.ops.reformer_dist.attend_rows(received, *_lists(route, settings))
    if settings.is_on_gpu(received, received.shape[1] // 2):
        return _attend_on_gpu(route, received, settings)
    kernel = pick_kernel(received, settings.kernel)
    qk_NSD, v_NSD = _lay_out(route, received).chunk(2, dim=-1)
    k_NSD = unit_keys(qk_NSD)
    out_NSD = torch.zeros_like(v_NSD, memory_format=torch.contiguous_format)
    lse_NS1 = torch.zeros(*v_NSD.shape[:2], 1, dtype=statistics_dtype(v_NSD), device=v_NSD.device)
    for blocks, part, mask, keep in _stretches(route, settings, v_NSD.dtype):
        out, lse = kernel.forward(
            blocks.queries(qk_NSD[:, part]), blocks.keys(k_NSD[:, part]), blocks.keys(v_NSD[:, part]), mask, keep
        )
        blocks.queries(out_NSD[:, part]).copy_(out)
        blocks.queries(lse_NS1[:, part]).copy_(lse[..., None])
    places = _places(route)[route.own]
    return pack(out_NSD.flatten(0, 1)[places], lse_NS1.flatten(0, 1)[places])


def attend_backward(route: Route, vectors: Tensor, outputs: Tensor, settings: Settings) -> Tensor:
    """Gradients [M, 2 D] of the rows' queries-keys and values.

    Args:
        route: of the rows.
        vectors: queries-keys and values, [M, 2 D]; rows may lie apart.
        outputs: output gradients and packed behind them the product of that gradient with the output, and the
            log-sum-exp, both of all rounds together; [M, D + 2] or wider, rows may lie apart.
        settings: window, kernel, dropout.

    """
    if settings.is_native(vectors):
        return torch.ops.reformer_dist.attend_rows_backward(vectors, outputs, *_lists(route, settings))
    D = vectors.shape[1] // 2
    if settings.is_on_gpu(vectors, D):
        return _attend_backward_on_gpu(route, vectors, outputs, settings)
    kernel = pick_kernel(vectors, settings.kernel)
    grad_MD, statistics = unpack(outputs, D)
    qk_NSD, v_NSD = _lay_out(route, vectors).chunk(2, dim=-1)
    grad_NSD = _lay_out(route, grad_MD)
    statistics_NS2 = _lay_out(route, statistics)
    with torch.enable_grad():
        leaf_NSD = qk_NSD.detach().requires_grad_()
        k_NSD = unit_keys(leaf_NSD)
    keys_NSD = k_NSD.detach()
    dq, dk, dv = (torch.zeros_like(v_NSD, memory_format=torch.contiguous_format) for _ in range(3))
    out_NSD = _output_with(statistics_NS2[..., :1], grad_NSD)
    places_S = torch.arange(v_NSD.shape[1], device=v_NSD.device)
    is_query_S = (places_S >= route.queries[0]) & (places_S < route.queries[1])
    for blocks, part, mask, keep in _stretches(route, settings, v_NSD.dtype):
        lse = blocks.queries(statistics_NS2[:, part, 1])
        dq_part, dk_part, dv_part = kernel.backward(
            blocks.queries(grad_NSD[:, part]).contiguous(),
            blocks.queries(qk_NSD[:, part]),
            blocks.keys(keys_NSD[:, part]),
            blocks.keys(v_NSD[:, part]),
            blocks.queries(out_NSD[:, part]),
            lse.masked_fill(~blocks.queries(is_query_S[None, part]), torch.inf),
            mask,
            keep,
        )
        blocks.queries(dq[:, part]).add_(dq_part)
        dk[:, part] += blocks.add_keys(dk_part)
        dv[:, part] += blocks.add_keys(dv_part)
    dqk = dq + torch.autograd.grad(k_NSD, leaf_NSD, dk)[0]
    return torch.cat([dqk, dv], dim=-1).flatten(0, 1)[_places(route)]


def pack(vectors_MD: Tensor, statistics_MX: Tensor) -> Tensor:
    """Vectors and, behind them, statistics of a wider dtype bit by bit, so that one exchange carries both exactly."""
    return torch.cat([vectors_MD, statistics_MX.contiguous().view(vectors_MD.dtype)], dim=1)


def unpack(rows_MY: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The two parts of `pack`, of which the vectors have `width` columns."""
    return rows_MY[:, :width], rows_MY[:, width:].contiguous().view(statistics_dtype(rows_MY))


def _lists(route: Route, settings: Settings) -> tuple[Any, ...]:
    """What the compiled operators take beside the rows; see native/routed.cpp."""
    rule, (first, last) = settings.rule, route.queries
    assert rule.reach is not None
    dropout = [0.0, 1.0]
    if settings.dropout is not None:
        threshold = keep_threshold(settings.dropout.probability)
        dropout = [float(threshold), 65536 / (65536 - threshold)]
    numbers = [*rule.reach, int(rule.compare == "other"), first, last - first]
    return route.own, route.order_NS, route.segments_M.long(), route.hashes_M, numbers, dropout


def _attend_on_gpu(route: Route, received: Tensor, settings: Settings) -> Tensor:
    qk_MD, v_MD = received.chunk(2, dim=1)
    out_MD, lse_M, _ = launch.attend(launch.Vectors(qk_MD, None, v_MD), _gpu_lists(route, qk_MD, settings))
    return pack(out_MD[route.own].to(v_MD.dtype), lse_M[route.own, None])


def _attend_backward_on_gpu(route: Route, vectors: Tensor, outputs: Tensor, settings: Settings) -> Tensor:
    qk_MD, v_MD = vectors.chunk(2, dim=1)
    grad_MD, statistics_M2 = unpack(outputs, v_MD.shape[1])
    delta_M = statistics_M2[:, 0].contiguous()
    lse_M = torch.full_like(delta_M, torch.inf)  # halo rows are keys alone
    lse_M[route.own] = statistics_M2[route.own, 1]
    gradients = torch.zeros(vectors.shape, dtype=lse_M.dtype, device=vectors.device)
    dqk_MD, dv_MD = gradients.chunk(2, dim=1)
    lists = _gpu_lists(route, qk_MD, settings)
    launch.attend_backward(launch.Vectors(qk_MD, None, v_MD), grad_MD, lse_M, delta_M, lists, (dqk_MD, dqk_MD, dv_MD))
    return gradients.to(vectors.dtype)


def _gpu_lists(route: Route, qk_MD: Tensor, settings: Settings) -> launch.Lists:
    """What the Triton kernels take beside the rows; see model/gpu/kernels.py."""
    rule, (first, last) = settings.rule, route.queries
    assert rule.reach is not None
    block = launch.pick_block(rule.reach[1] - rule.reach[0] + 1, qk_MD.shape[1], qk_MD.dtype)
    segments_NS = _lay_out(route, route.segments_M).masked_fill(route.order_NS == NO_ROW, NO_KEY)
    filling = (0, -route.order_NS.shape[1] % block)
    threshold = 0 if settings.dropout is None else keep_threshold(settings.dropout.probability)
    return launch.Lists(
        pad(route.order_NS, filling, value=NO_ROW)[:, None].contiguous(),
        pad(segments_NS, filling, value=NO_KEY)[:, None].contiguous(),
        None if route.hashes_M is None else mix(route.hashes_M),
        block,
        1,
        *launch.panels_within(rule.reach, block),
        rule.reach,
        rule.compare,
        (first // block, math.ceil(last / block)),
        threshold,
        65536 / (65536 - threshold),
    )


def _lay_out(route: Route, rows_MX: Tensor) -> Tensor:
    """Rows at their places, [N, S, X]; places without one hold the first row, which the mask hides."""
    return rows_MX.index_select(0, route.order_NS.clamp(min=0).flatten()).unflatten(0, route.order_NS.shape)


def _places(route: Route) -> Tensor:
    """Place of each received row among the N * S, [M] int64."""
    places = torch.nonzero(route.order_NS.flatten() != NO_ROW)[:, 0]
    return torch.empty_like(places).scatter_(0, route.order_NS.flatten()[places].long(), places)


def _output_with(delta_NS1: Tensor, grad_NSD: Tensor) -> Tensor:
    """Some vector whose product with the gradient is delta: all that kernels need of the combined output."""
    largest = grad_NSD.abs().amax(-1, keepdim=True)
    largest = torch.where(largest == 0, 1.0, largest)
    direction = grad_NSD / largest
    length = direction.square().sum(-1, keepdim=True)
    return direction * (delta_NS1.to(grad_NSD.dtype) / largest / torch.where(length == 0, 1.0, length))


def _stretches(
    route: Route, settings: Settings, dtype: torch.dtype
) -> Iterator[tuple[Blocks, slice, Tensor, Tensor | None]]:
    """Blocks, the places they span, their mask and dropout multipliers, some blocks at a time."""
    rule, W = settings.rule, settings.rule.block
    assert rule.reach is not None
    N, S = route.order_NS.shape
    segments_NS = _lay_out(route, route.segments_M).masked_fill(route.order_NS == NO_ROW, NO_KEY)
    hashes_NS = None if route.hashes_M is None else mix(_lay_out(route, route.hashes_M))
    num_blocks = S // W - rule.before - rule.after
    step = max(1, _ENTRIES_IN_A_STRETCH // (W * N))
    keys = torch.arange((rule.before + 1 + rule.after) * W, device=segments_NS.device)
    back = torch.arange(W, device=keys.device)[:, None] + rule.before * W - keys
    reach = (back >= rule.reach[0]) & (back <= rule.reach[1])
    reach = reach & (back != 0) if rule.compare == "other" else reach
    for start in range(0, num_blocks, step):
        blocks = Blocks(min(step, num_blocks - start), W, rule.before, rule.after)
        part = slice(start * W, (start + rule.before + blocks.count + rule.after) * W)
        segments = segments_NS[:, part]
        query = blocks.queries(segments)[..., None]
        visible = (query == blocks.keys(segments)[:, :, None, :]) & (query != NO_KEY) & reach
        mask = torch.zeros(visible.shape, dtype=dtype, device=keys.device).masked_fill_(~visible, -torch.inf)
        keep = None
        if hashes_NS is not None and settings.dropout is not None:
            hashes = hashes_NS[:, part]
            pairs = blocks.queries(hashes)[..., None], blocks.keys(hashes)[:, :, None, :]
            keep = pair_keep(*pairs, settings.dropout.probability, dtype)
        yield blocks, part, mask, keep
