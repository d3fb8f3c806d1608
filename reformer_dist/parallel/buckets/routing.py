"""Where every token of a sharded sequence belongs in a hash round's order: a distributed stable counting sort.

In: this shard's buckets and documents. Out: a `Route` for every round and some heads: which rows to send to which worker,
and where the received ones stand. Each worker gets exactly its share of the order, with a halo of neighbours around it,
however the tokens fall into buckets. Workers exchange counts of buckets, never the sequence.

Legend: B batch, t tokens of this shard, H heads, R hash rounds, N slices (heads of sequences), P workers, S places of a
route's part of the order with its halo, M rows, X parts of a worker's share.
"""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from reformer_dist.model.backends.description import NO_KEY, NO_ROW, PADDING
from reformer_dist.model.backends.orders import LAST
from reformer_dist.model.backends.rules import Rule
from reformer_dist.model.budget import Budget
from reformer_dist.parallel.collectives import Peers, start_all_to_all

_NEVER = 1 << 62


@dataclass(frozen=True)
class Route:
    """One round's dispatch and combine for some slices, or a part of one's order. Rows are of a [B * t * H, ...] matrix."""

    slices: tuple[int, int]
    """First and last + 1 of the slices."""
    rows: Tensor
    """Rows to send, [M] int32, by worker; a row in a halo is sent to two workers."""
    send: list[int]
    """How many of them to each worker."""
    receive: list[int]
    """How many rows come from each worker."""
    own: Tensor
    """Which received rows are this route's queries (the others are halo), [M'] int32, in the order that they came."""
    own_rows: Tensor
    """Rows whose results come back, int32, by worker; each once."""
    own_send: list[int]
    """How many queries of this worker each worker sent."""
    own_receive: list[int]
    """How many results come back from each worker."""
    order_NS: Tensor
    """Received row at each place, int32; NO_ROW where there is none."""
    queries: tuple[int, int]
    """First and last + 1 of the places of this worker's queries; the others are halo or empty."""
    segments_M: Tensor
    """(document, bucket) of each received row, int32; NO_KEY for padding."""
    hashes_M: Tensor | None
    """Dropout hashes of each received row, before they are scrambled, int64; None without dropout."""


class Router:
    """Makes the routes of one attention layer."""

    def __init__(self, rule: Rule, peers: Peers, budget: Budget) -> None:
        """Route by a window rule over the workers of a group.

        Args:
            rule: says how many places of halo a worker needs.
            peers: the workers that share the sequence, in the order of their shards.
            budget: says how long a route is.

        """
        assert rule.reach is not None
        self.rule, self.peers = rule, peers
        self.num_workers, self.rank = peers.num_workers, peers.rank
        self.halo_before, self.halo_after = max(0, rule.reach[1]), max(0, -rule.reach[0])
        self.budget = budget

    def num_places(self, length: int) -> int:
        """Places S of a part of the order, whole blocks and the blocks around them included."""
        rule = self.rule
        return (rule.before + math.ceil(length / rule.block) + rule.after) * rule.block

    def routes(
        self, buckets_BHRt: Tensor, documents_Bt: Tensor | None, num_buckets: int, hashes_Nt: Tensor | None
    ) -> list[Route]:
        """Routes by slices, then rounds, then parts of the order."""
        B, H, R, t = buckets_BHRt.shape
        segments_RNt = _segments(buckets_BHRt, documents_Bt, num_buckets)
        ordered_RNt = torch.sort(segments_RNt * t + torch.arange(t, device=segments_RNt.device)).values
        order_RNt, segments_RNt = ordered_RNt % t, ordered_RNt // t
        places_RNt = self._global_places(segments_RNt)
        parts = self._parts(t).to(places_RNt.device)
        starts_PX = torch.arange(self.num_workers, device=parts.device)[:, None] * t + parts[:-1]
        ends_PX = starts_PX + parts.diff()
        low = _count_below(places_RNt, starts_PX - self.halo_before)
        high = _count_below(places_RNt, ends_PX + self.halo_after)
        own_low, own_high = _count_below(places_RNt, starts_PX), _count_below(places_RNt, ends_PX)
        sent_RN2PX = torch.stack([high - low, own_high - own_low], dim=2)
        received_RN2PX = self._swap_counts(sent_RN2PX)
        size = max(1, self.budget.routed_entries // t)
        routes: list[Route] = []
        begun: deque[Callable[[], Route]] = deque()
        for first in range(0, B * H, size):
            for r in range(R):
                here = (r, slice(first, min(first + size, B * H)))
                for x, length in enumerate(parts.diff().tolist()):
                    if len(begun) > 1:
                        routes.append(begun.popleft()())
                    begun.append(
                        self._begin_route(
                            (first, here[1].stop),
                            H,
                            order_RNt[here],
                            places_RNt[here],
                            segments_RNt[here],
                            (starts_PX[:, x], length),
                            (low[here][..., x], own_low[here][..., x]),
                            sent_RN2PX[here][..., x],
                            received_RN2PX[here][..., x],
                            hashes_Nt,
                        )
                    )
        return routes + [end() for end in begun]

    def _parts(self, t: int) -> Tensor:
        """Edges of the parts into which a worker's t places are cut, 0 to t, [X + 1]; each part is a route of its own."""
        longest = max(self.budget.routed_entries, self.budget.routed_halos * (self.halo_before + self.halo_after))
        length = math.ceil(t / math.ceil(t / longest))
        return torch.tensor([*range(0, t, length), t])

    def _global_places(self, segments_RNt: Tensor) -> Tensor:
        """Place of each locally ordered token in the order of all workers' tokens, [R, N, t]."""
        t = segments_RNt.shape[-1]
        flat = segments_RNt.flatten(0, 1)
        starts = torch.ones_like(flat, dtype=torch.bool)
        starts[:, 1:] = flat[:, 1:] != flat[:, :-1]
        run = starts.cumsum(-1) - 1
        num_runs = run[:, -1].max() + 1
        dist.all_reduce(num_runs, dist.ReduceOp.MAX, group=self.peers.group)
        width = int(num_runs)
        values = torch.full((flat.shape[0], width), _NEVER, device=flat.device).scatter_(1, run, flat)
        counts = torch.zeros_like(values).scatter_add_(1, run, torch.ones_like(run))
        mine = torch.stack([values, counts.cumsum(-1)])
        places = torch.arange(t, device=flat.device).expand_as(flat).clone()
        for peer in range(self.num_workers):
            theirs = mine.clone() if peer == self.rank else torch.empty_like(mine)
            dist.broadcast(theirs, dist.get_global_rank(self.peers.group, peer), group=self.peers.group)
            if peer == self.rank:
                self.peers.traffic.bytes_sent += mine.nbytes * (self.num_workers - 1)
                continue
            # Of an earlier shard all tokens up to this segment come before; of a later one those of smaller segments.
            runs = torch.searchsorted(theirs[0], flat, right=peer < self.rank)
            places += torch.where(runs > 0, theirs[1].gather(1, (runs - 1).clamp(min=0)), 0)
        return places.view_as(segments_RNt)

    def _swap_counts(self, sent_RN2PX: Tensor) -> Tensor:
        """What the others send to this worker, in the layout of what it sends."""
        ones = [1] * self.num_workers
        by_worker = sent_RN2PX.movedim(-2, 0)
        return start_all_to_all(by_worker, ones, ones, self.peers).wait().movedim(0, -2)

    def _begin_route(
        self,
        slices: tuple[int, int],
        num_heads: int,
        order_Nt: Tensor,
        places_Nt: Tensor,
        segments_Nt: Tensor,
        part: tuple[Tensor, int],
        lows: tuple[Tensor, Tensor],
        sent_N2P: Tensor,
        received_N2P: Tensor,
        hashes_Nt: Tensor | None,
    ) -> Callable[[], Route]:
        """Tell the others which rows come to them; what is returned waits for what comes and makes the route."""
        N, t = order_Nt.shape
        starts_P, length = part
        S, offset = self.num_places(length), self.rule.before * self.rule.block
        entries, worker, slice_index = _spans(lows[0], sent_N2P[:, 0])
        at = slice_index * t + entries
        place = places_Nt.flatten()[at] - starts_P[worker] + offset + slice_index * S
        columns = [place.int(), segments_Nt.flatten()[at].int()]
        if hashes_Nt is not None:
            hashes = hashes_Nt[slices[0] : slices[1]].gather(1, order_Nt).flatten()[at]
            columns.extend(hashes.view(torch.int32).unflatten(0, (-1, 2)).unbind(1))
        send, receive = sent_N2P[:, 0].sum(0).tolist(), received_N2P[:, 0].sum(0).tolist()
        pending = start_all_to_all(torch.stack(columns, dim=1), send, receive, self.peers)
        own_entries, _, own_slice = _spans(lows[1], sent_N2P[:, 1])
        rows_Nt = _matrix_rows(slices, order_Nt, num_heads)
        rows, own_rows = rows_Nt.flatten()[at].int(), rows_Nt.flatten()[own_slice * t + own_entries].int()

        def end() -> Route:
            table = pending.wait()
            places, within = table[:, 0].long(), table[:, 0] % S
            order_NS = torch.full((N * S,), NO_ROW, dtype=torch.int32, device=table.device)
            order_NS[places] = torch.arange(len(places), dtype=torch.int32, device=table.device)
            return Route(
                slices,
                rows,
                send,
                receive,
                torch.nonzero((within >= offset) & (within < offset + length))[:, 0].int(),
                own_rows,
                received_N2P[:, 1].sum(0).tolist(),
                sent_N2P[:, 1].sum(0).tolist(),
                order_NS.view(N, S),
                (offset, offset + length),
                torch.where(table[:, 1] == LAST, NO_KEY, table[:, 1]),
                None if hashes_Nt is None else table[:, 2:].contiguous().view(torch.int64)[:, 0],
            )

        return end


def _segments(buckets_BHRt: Tensor, documents_Bt: Tensor | None, num_buckets: int) -> Tensor:
    """(document, bucket) as one number, padding behind all others, [R, N, t] int64."""
    segments_BHRt = buckets_BHRt.long()
    if documents_Bt is not None:
        documents = documents_Bt[:, None, None]
        segments_BHRt = (documents * num_buckets + segments_BHRt).masked_fill(documents == PADDING, LAST)
    return segments_BHRt.permute(2, 0, 1, 3).flatten(1, 2).contiguous()


def _count_below(places_RNt: Tensor, edges_PX: Tensor) -> Tensor:
    """How many of each row's ascending places lie below each edge, [R, N, P, X]."""
    edges = edges_PX.flatten().expand(*places_RNt.shape[:2], -1).contiguous()
    return torch.searchsorted(places_RNt, edges).unflatten(-1, edges_PX.shape)


def _spans(low_NP: Tensor, count_NP: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The entries low..low+count-1 of every slice for every worker, by worker, then slice: (entry, worker, slice)."""
    N, P = low_NP.shape
    counts = count_NP.T.flatten()
    which = torch.repeat_interleave(torch.arange(N * P, device=counts.device), counts)
    ahead = (counts.cumsum(0) - counts)[which]
    entries = low_NP.T.flatten()[which] + torch.arange(which.shape[0], device=counts.device) - ahead
    return entries, which // N, which % N


def _matrix_rows(slices: tuple[int, int], tokens_Nt: Tensor, num_heads: int) -> Tensor:
    """Row of a token of a slice in a [B * t * H] matrix."""
    slices_N1 = torch.arange(*slices, device=tokens_Nt.device)[:, None]
    t = tokens_Nt.shape[1]
    return (slices_N1 // num_heads * t + tokens_Nt) * num_heads + slices_N1 % num_heads
