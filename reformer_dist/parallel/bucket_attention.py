"""LSH attention in window mode over a sharded sequence, without any worker ever holding the whole of it.

In: this shard's queries-keys and values and its routes. Out: this shard's outputs, equal to one worker's. In every round
tokens travel to their sorted place, each worker attends exactly its share of the order, and outputs with their log-sum-exps
travel back and are combined. While one round is computed the next one's tokens are under way.

The backward pass sends tokens again (they are not kept), with their output gradients and combined log-sum-exps, and brings
the gradients back the same way.

Legend: B batch, t tokens of this shard, H heads, D head dimension, N slices (heads of sequences), S places of a worker's
part of the order with its halo, M rows, C blocks, W block length, K keys a block sees.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from reformer_dist.model.block_attention import Blocks
from reformer_dist.model.block_kernels import pick_kernel, statistics_dtype
from reformer_dist.model.combination import RunningMix
from reformer_dist.model.plans import AttentionDropout, Rule
from reformer_dist.model.randomness import pair_keep
from reformer_dist.model.segment_attention import unit_keys
from reformer_dist.parallel.collectives import Pending, Traffic, start_all_to_all
from reformer_dist.parallel.routing import NO_KEY, Route

_ENTRIES_IN_A_STRETCH = 1 << 14


class Settings:
    """What all rounds share."""

    def __init__(
        self, rule: Rule, group: dist.ProcessGroup, traffic: Traffic, dropout: AttentionDropout | None, kernel: str
    ) -> None:
        self.rule, self.group, self.traffic, self.dropout, self.kernel = rule, group, traffic, dropout, kernel


def bucket_attention(
    qk_BtHD: Tensor, v_BtHD: Tensor, routes: Sequence[Route], own_keep_BtH: Tensor | None, settings: Settings
) -> Tensor:
    """Attend over all workers' tokens.

    Args:
        qk_BtHD: shared queries-keys of this shard.
        v_BtHD: values, of the same shape and dtype.
        routes: from `Router.routes`, by slices, then rounds.
        own_keep_BtH: dropout multipliers of a token's weight on its own value; None without dropout.
        settings: window, group, kernel.

    Returns:
        [B, t, H, D] in the dtype of the values.

    """
    return _BucketAttention.apply(qk_BtHD, v_BtHD, routes, own_keep_BtH, settings)


class _BucketAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, qk: Tensor, v: Tensor, routes: Sequence[Route], own_keep: Tensor | None, settings: Settings
    ) -> Tensor:
        rows = torch.cat([_matrix(qk), _matrix(v)], dim=1)
        mix = RunningMix(rows.shape[0], v)

        def take_back(route: Route, pending: Pending) -> None:
            out, lse = _unpack(pending.wait(), v.shape[-1])
            mix.add(route.own_rows.long(), out, lse[:, 0])

        returning: list[tuple[Route, Pending]] = []
        for route, received in _dispatched(routes, lambda route: rows[route.rows.long()], settings):
            if len(returning) > 1:
                take_back(*returning.pop(0))
            result = _attend(route, received, settings)[route.own]
            send, receive = route.own_send, route.own_receive
            returning.append((route, start_all_to_all(result, send, receive, settings.group, settings.traffic)))
        for route, pending in returning:
            take_back(route, pending)
        out, lse, own_weight = mix.finish(_matrix(v), None if own_keep is None else own_keep.flatten())
        ctx.save_for_backward(qk, v, out, lse, own_weight)
        ctx.routes, ctx.settings = routes, settings
        return out.to(v.dtype).view_as(v)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        qk, v, out, lse, own_weight = ctx.saved_tensors
        settings: Settings = ctx.settings
        grad_rows = _matrix(grad)
        delta = (grad_rows * out).sum(1, keepdim=True, dtype=lse.dtype)
        statistics = torch.cat([delta, lse[:, None]], dim=1)
        rows = _pack(torch.cat([_matrix(qk), _matrix(v), grad_rows], dim=1), statistics)
        total = torch.zeros(rows.shape[0], 2 * v.shape[-1], dtype=v.dtype, device=v.device)

        def take_back(route: Route, pending: Pending) -> None:
            total.index_add_(0, route.rows.long(), pending.wait())

        returning: list[tuple[Route, Pending]] = []
        for route, received in _dispatched(ctx.routes, lambda route: rows[route.rows.long()], settings):
            if len(returning) > 1:
                take_back(*returning.pop(0))
            result = _attend_backward(route, received, v.shape[-1], settings)
            send, receive = route.receive, route.send
            returning.append((route, start_all_to_all(result, send, receive, settings.group, settings.traffic)))
        for route, pending in returning:
            take_back(route, pending)
        dqk, dv = total.chunk(2, dim=1)
        dv = dv + grad_rows * own_weight[:, None].to(v.dtype)
        return dqk.reshape(qk.shape), dv.view_as(v), None, None, None


def _dispatched(
    routes: Sequence[Route], rows: Callable[[Route], Tensor], settings: Settings
) -> Iterator[tuple[Route, Tensor]]:
    """Each route with the rows that came for it; the next route's are on their way meanwhile."""

    def start(route: Route) -> Pending:
        return start_all_to_all(rows(route), route.send, route.receive, settings.group, settings.traffic)

    pending = start(routes[0])
    for index, route in enumerate(routes):
        following = start(routes[index + 1]) if index + 1 < len(routes) else None
        yield route, pending.wait()
        if following is not None:
            pending = following


def _attend(route: Route, received: Tensor, settings: Settings) -> Tensor:
    """Outputs and log-sum-exps of the received rows, packed (those of halo rows mean nothing)."""
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
    places = route.places.long()
    return _pack(out_NSD.flatten(0, 1)[places], lse_NS1.flatten(0, 1)[places])


def _attend_backward(route: Route, received: Tensor, D: int, settings: Settings) -> Tensor:
    """Gradients of the received rows' queries-keys and values, [M', 2 D]."""
    kernel = pick_kernel(received, settings.kernel)
    vectors, statistics = _unpack(received, 3 * D)
    qk_NSD, v_NSD, grad_NSD = _lay_out(route, vectors).chunk(3, dim=-1)
    statistics_NS2 = _lay_out(route, statistics)
    with torch.enable_grad():
        leaf_NSD = qk_NSD.detach().requires_grad_()
        k_NSD = unit_keys(leaf_NSD)
    keys_NSD = k_NSD.detach()
    dq, dk, dv = (torch.zeros_like(v_NSD, memory_format=torch.contiguous_format) for _ in range(3))
    out_NSD = _output_with(statistics_NS2[..., :1], grad_NSD)
    for blocks, part, mask, keep in _stretches(route, settings, v_NSD.dtype):
        lse = blocks.queries(statistics_NS2[:, part, 1])
        is_query = blocks.queries(route.is_query_S[None, part])
        dq_part, dk_part, dv_part = kernel.backward(
            blocks.queries(grad_NSD[:, part]).contiguous(),
            blocks.queries(qk_NSD[:, part]),
            blocks.keys(keys_NSD[:, part]),
            blocks.keys(v_NSD[:, part]),
            blocks.queries(out_NSD[:, part]),
            lse.masked_fill(~is_query, torch.inf),
            mask,
            keep,
        )
        blocks.queries(dq[:, part]).add_(dq_part)
        dk[:, part] += blocks.add_keys(dk_part)
        dv[:, part] += blocks.add_keys(dv_part)
    dqk = dq + torch.autograd.grad(k_NSD, leaf_NSD, dk)[0]
    return torch.cat([dqk, dv], dim=-1).flatten(0, 1)[route.places.long()]


def _output_with(delta_NS1: Tensor, grad_NSD: Tensor) -> Tensor:
    """Some vector whose product with the gradient is delta: all that kernels need of the combined output."""
    largest = grad_NSD.abs().amax(-1, keepdim=True)
    largest = torch.where(largest == 0, 1.0, largest)
    direction = grad_NSD / largest
    length = direction.square().sum(-1, keepdim=True)
    return direction * (delta_NS1.to(grad_NSD.dtype) / largest / torch.where(length == 0, 1.0, length))


def _pack(vectors_MD: Tensor, statistics_MX: Tensor) -> Tensor:
    """Vectors and, behind them, statistics of a wider dtype bit by bit, so that one exchange carries both exactly."""
    return torch.cat([vectors_MD, statistics_MX.contiguous().view(vectors_MD.dtype)], dim=1)


def _unpack(rows_MY: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The two parts of `_pack`, of which the vectors have `width` columns."""
    return rows_MY[:, :width], rows_MY[:, width:].contiguous().view(statistics_dtype(rows_MY))


def _lay_out(route: Route, received: Tensor) -> Tensor:
    """Received rows at their places, zeros elsewhere, [N, S, X]."""
    N, S = route.segments_NS.shape
    laid = received.new_zeros(N * S, received.shape[1])
    laid[route.places.long()] = received
    return laid.view(N, S, -1)


def _stretches(
    route: Route, settings: Settings, dtype: torch.dtype
) -> Iterator[tuple[Blocks, slice, Tensor, Tensor | None]]:
    """Blocks, the places they span, their mask and dropout multipliers, some blocks at a time."""
    rule, W = settings.rule, settings.rule.block
    assert rule.reach is not None
    N, S = route.segments_NS.shape
    num_blocks = S // W - rule.before - rule.after
    step = max(1, _ENTRIES_IN_A_STRETCH // (W * N))
    keys = torch.arange((rule.before + 1 + rule.after) * W, device=route.places.device)
    back = torch.arange(W, device=keys.device)[:, None] + rule.before * W - keys
    reach = (back >= rule.reach[0]) & (back <= rule.reach[1])
    reach = reach & (back != 0) if rule.compare == "other" else reach
    for start in range(0, num_blocks, step):
        blocks = Blocks(min(step, num_blocks - start), W, rule.before, rule.after)
        part = slice(start * W, (start + rule.before + blocks.count + rule.after) * W)
        segments = route.segments_NS[:, part]
        query = blocks.queries(segments)[..., None]
        visible = (query == blocks.keys(segments)[:, :, None, :]) & (query != NO_KEY) & reach
        mask = torch.zeros(visible.shape, dtype=dtype, device=keys.device).masked_fill_(~visible, -torch.inf)
        keep = None
        if route.hashes_NS is not None and settings.dropout is not None:
            hashes = route.hashes_NS[:, part]
            pairs = blocks.queries(hashes)[..., None], blocks.keys(hashes)[:, :, None, :]
            keep = pair_keep(*pairs, settings.dropout.probability, dtype)
        yield blocks, part, mask, keep


def _matrix(x_BtHD: Tensor) -> Tensor:
    return x_BtHD.reshape(-1, x_BtHD.shape[-1])
