"""LSH attention in window mode over a sharded sequence, without any worker ever holding the whole of it.

In: this shard's queries-keys and values and its routes. Out: this shard's outputs, equal to one worker's. In every round
tokens travel to their sorted place, each worker attends exactly its share of the order, and outputs with their log-sum-exps
travel back and are combined. While one round is computed the next ones' tokens are under way.

The backward pass sends output gradients and combined log-sum-exps, and brings the gradients back the same way. What came
in the forward pass before it is kept for it up to a limit; tokens past it are sent again.

Legend: B batch, t tokens of this shard, H heads, D head dimension, N slices (heads of sequences), S places of a worker's
part of the order with its halo, M rows, C blocks, W block length, K keys a block sees.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from reformer_dist.model.backends.backend import Backend, KernelName
from reformer_dist.model.backends.choice import choose_for
from reformer_dist.model.backends.description import AttentionDropout, OrderedBlocks, OrderedRows
from reformer_dist.model.backends.rules import Rule
from reformer_dist.model.budget import Budget
from reformer_dist.model.keeping import Kept, Results, found_or_made
from reformer_dist.parallel.buckets.routing import Route
from reformer_dist.parallel.collectives import Peers, Pending, start_all_to_all


@dataclass(frozen=True)
class Settings:
    """What all routes share."""

    rule: Rule
    peers: Peers
    dropout: AttentionDropout | None
    kernel: KernelName
    budget: Budget
    kept: Kept | None = None

    def backend(self, v: Tensor) -> Backend:
        """The backend for values like these [..., D]."""
        return choose_for(v, OrderedBlocks(rule=self.rule, dropout=self.dropout), self.kernel)

    def describe(self, route: Route) -> OrderedRows:
        """The rows of a route, as backends take them."""
        return OrderedRows(
            rule=self.rule,
            budget=self.budget,
            dropout=self.dropout,
            order_NS=route.order_NS,
            queries=route.queries,
            own=route.own,
            segments_M=route.segments_M,
            hashes_M=route.hashes_M,
        )


def bucket_attention(
    qk_BtHD: Tensor, v_BtHD: Tensor, routes: Sequence[Route], own_keep_BtH: Tensor | None, settings: Settings
) -> Tensor:
    """Attend over all workers' tokens.

    Args:
        qk_BtHD: shared queries-keys of this shard.
        v_BtHD: values, of the same shape and dtype.
        routes: from `Router.routes`, by slices, then rounds.
        own_keep_BtH: multipliers of a token's weight on its own value, such as dropout's; None for ones.
        settings: what all routes share.

    Returns:
        [B, t, H, D] in the dtype of the values.

    """
    return _BucketAttention.apply(qk_BtHD, v_BtHD, routes, own_keep_BtH, settings)


class _BucketAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, qk: Tensor, v: Tensor, routes: Sequence[Route], own_keep: Tensor | None, settings: Settings
    ) -> Tensor:
        received: list[Tensor | None] = [None] * len(routes)
        room = settings.budget.kept_elements if any(ctx.needs_input_grad) else 0
        make = partial(_attended, qk, v, routes, own_keep, settings, received, room)
        out, lse, own_weight = found_or_made(settings.kept, "attention", "attention", make)
        ctx.save_for_backward(qk, v, out, lse, own_weight)
        ctx.routes, ctx.settings, ctx.received = routes, settings, received
        return out.detach().to(v.dtype).view_as(v)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        qk, v, out, lse, own_weight = ctx.saved_tensors
        settings: Settings = ctx.settings
        backend = settings.backend(v)
        grad_rows = _matrix(grad)
        delta = (grad_rows * out).sum(1, keepdim=True, dtype=lse.dtype)
        statistics = torch.cat([delta, lse[:, None]], dim=1).view(v.dtype)
        kept: list[Tensor | None] = ctx.received
        vectors, outputs = [_matrix(qk), _matrix(v)], [grad_rows, statistics]
        parts = [outputs if x is not None else vectors + outputs for x in kept]
        total = torch.zeros(grad_rows.shape[0], 2 * v.shape[-1], dtype=v.dtype, device=v.device)

        def take_back(route: Route, pending: Pending) -> None:
            def add(first: int, rows: Tensor) -> None:
                backend.add_rows(total, route.rows[first : first + len(rows)], rows, [len(rows)])

            pending.read(add)

        returning: list[tuple[Route, Pending]] = []
        for index, (route, received) in enumerate(_dispatched(ctx.routes, parts, settings, backend)):
            if len(returning) > 1:
                take_back(*returning.pop(0))
            came, kept[index] = kept[index], None
            if came is None:
                came, received = received.tensor_split([2 * v.shape[-1]], dim=1)
            result = backend.attend_rows_backward(came, received, settings.describe(route))
            del came, received
            send, receive = route.receive, route.send
            returning.append((route, start_all_to_all(result, send, receive, settings.peers)))
        for route, pending in returning:
            take_back(route, pending)
        dqk, dv = total.chunk(2, dim=1)
        dv = torch.addcmul(dv, grad_rows, own_weight[:, None].to(v.dtype))
        return dqk.reshape(qk.shape), dv.view_as(v), None, None, None


def _attended(
    qk: Tensor,
    v: Tensor,
    routes: Sequence[Route],
    own_keep: Tensor | None,
    settings: Settings,
    came: list[Tensor | None],
    room: int,
) -> Results:
    """Outputs, combined log-sum-exps and the weights of tokens' own values, a row for each token and head.

    What came for the routes is put into `came`, as long as there is room for its elements.
    """
    parts, backend = [_matrix(qk), _matrix(v)], settings.backend(v)
    combination = backend.start_combination(parts[0].shape[0], v)

    def take_back(route: Route, pending: Pending) -> None:
        pending.read(lambda first, rows: combination.add_packed(route.own_rows[first : first + len(rows)], rows))

    returning: list[tuple[Route, Pending]] = []
    for index, (route, received) in enumerate(_dispatched(routes, [parts] * len(routes), settings, backend)):
        if len(returning) > 1:
            take_back(*returning.pop(0))
        result = backend.attend_rows(received, settings.describe(route))
        send, receive = route.own_send, route.own_receive
        returning.append((route, start_all_to_all(result, send, receive, settings.peers)))
        room -= route.order_NS.numel() * received.shape[1]  # the same on all workers, unlike what came
        came[index] = received if room >= 0 else None
    for route, pending in returning:
        take_back(route, pending)
    return combination.finish(_matrix(v), None if own_keep is None else own_keep.flatten())


def _dispatched(
    routes: Sequence[Route], parts: Sequence[list[Tensor]], settings: Settings, backend: Backend
) -> Iterator[tuple[Route, Tensor]]:
    """Each route with the rows of its parts that came for it; the next routes' are on their way meanwhile."""
    waiting = zip(routes, parts, strict=True)
    under_way: deque[tuple[Route, Pending]] = deque()

    def start(count: int) -> None:
        for route, matrices in islice(waiting, count):
            rows = backend.take_rows(matrices, route.rows)
            pending = start_all_to_all(rows, route.send, route.receive, settings.peers)
            under_way.append((route, pending))

    start(settings.budget.routes_ahead)
    while under_way:
        start(1)
        route, pending = under_way.popleft()
        yield route, pending.wait()


def _matrix(x_BtHD: Tensor) -> Tensor:
    return x_BtHD.reshape(-1, x_BtHD.shape[-1]).contiguous()
