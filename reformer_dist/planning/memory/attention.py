"""Memory of undoing attention that works through its heads group by group: LSH, full, and local in chunks.

In: a worker's `Work`. Out: the moments that can be its largest, without streams and finished gradients; and what an LSH
layer's forward pass keeps for it. One tensor of the heads that are worked on, [B, T, g, D], is called a tensor here.

Counted from the code, for the compiled operators.
"""

import math
from typing import NamedTuple

from reformer_dist.config import ModelConfig
from reformer_dist.config.sections.model import KeepLevel
from reformer_dist.model.backends.rules import window_rule
from reformer_dist.planning.memory.layers import (
    INDEX,
    attention_weights,
    keeps,
    num_contributions,
    num_convolved,
    num_projections,
    num_turned,
)
from reformer_dist.planning.memory.parts import Parts, Work

_ORDER = 4
"""Bytes of a token in an order, and of everything in a route: int32."""
_NARROW = 1 << 15
"""Buckets from which their numbers take 4 bytes instead of 2."""


class Group(NamedTuple):
    """The heads that are worked on at a time."""

    heads: int
    """How many, over all workers that divide them."""
    tensor: int
    """Bytes of queries of these heads."""
    entries: int
    """Tokens times heads of this worker."""


def head_group(work: Work) -> Group:
    """The largest group of heads."""
    model, budget = work.model, work.budget
    alone = work.head_workers * work.bucket_workers == 1
    limit = budget.head_elements if alone else budget.exchanged_elements
    fitting = limit // (work.rows * work.tokens * model.head_width)
    heads = min(model.num_heads, max(1, fitting // work.head_workers) * work.head_workers)
    return Group(heads, work.of_tokens(work.tokens, heads * model.head_width), work.rows * work.tokens * heads)


def undo_heads(work: Work, kind: str, level: KeepLevel = "nothing") -> list[Parts]:
    """While attention itself is differentiated, and while the projections are, piece by piece."""
    is_kept = kind != "full" and keeps(level, "attention")
    model, group, inputs = work.model, head_group(work), num_projections(kind)
    tokens = min(work.budget.projected_tokens, work.tokens)
    piece, projected = work.of_tokens(tokens, model.embed_dim), work.of_tokens(tokens, model.head_width * group.heads)
    weights = attention_weights(model, kind) * work.element
    before = piece if tokens < work.tokens else 0
    # The inputs (turned ones twice), their gradients, the result and its gradient; the last piece's contribution has not
    # gone yet.
    tensors = 2 * inputs + (1 if is_kept else 2) + num_turned(model, kind)
    held = Parts(weight_gradients=weights, heads=tensors * group.tensor, pieces=num_contributions(level) * piece)
    if work.head_workers > 1:
        # Beside what is this shard's: all tokens' inputs, their result as it came back, and its gradient.
        held += Parts(exchanged=(inputs + 2) * group.tensor)
    buckets = kind == "lsh" and work.bucket_workers > 1
    if buckets and work.head_workers > 1:
        held += Parts(exchanged=inputs * group.tensor)  # received side by side, copied into matrices of their own
    attention = [held + part for part in (_undo_routes(work, is_kept) if buckets else [_lists(work, kind, is_kept)])]
    # The inputs' gradients and, by a view of its last piece, the result. A piece has its norm, what the convolution makes of
    # it, projections if they are normed, contribution, the gradients of the norm by two projections and their sum, and the
    # gradient of the piece before.
    num_projected = inputs - 1 if model.query_key_norm else 0
    projections = Parts(
        weight_gradients=2 * weights,
        heads=(inputs + (0 if is_kept else 1)) * group.tensor,
        pieces=(4 + num_contributions(level) + num_convolved(model)) * piece + num_projected * projected + before,
    )
    return [*attention, projections]


def found_by(work: Work) -> Parts:
    """What one LSH layer's forward pass keeps for the undo: buckets, or routes."""
    entries = work.rows * work.tokens * work.model.num_heads * work.model.num_hashes
    if work.bucket_workers == 1:
        return Parts(found=entries * bucket_bytes(work.model))
    route = _Route(work)
    lists = work.rows * work.model.num_heads // work.head_workers * work.model.num_hashes * route.parts
    hashes = INDEX * route.rows if work.model.attention_dropout else 0
    # Rows to send, received segments; own rows here and there; the row at each place. Counted for one slice.
    return Parts(found=lists * (_ORDER * (2 * route.rows + 2 * route.length + route.places) + hashes))


def bucket_bytes(model: ModelConfig) -> int:
    """Bytes of a bucket's number."""
    return 4 if math.prod(model.bucket_factors) >= _NARROW else 2


def _lists(work: Work, kind: str, is_kept: bool) -> Parts:
    """Log-sum-exps, weights on the own value and products of result and gradient; of LSH the order of every round."""
    entries = head_group(work).entries
    orders = _ORDER * entries * work.model.num_hashes if kind == "lsh" else 0
    hashes = INDEX * work.rows * work.tokens * work.head_workers if work.model.attention_dropout else 0
    return Parts(lists=orders + (1 if is_kept else 3) * entries * work.element + hashes)


class _Route:
    """The sizes of one route for one slice (a head of a sequence): a part of a round's order."""

    def __init__(self, work: Work) -> None:
        model, budget = work.model, work.budget
        self.tokens = work.tokens * work.head_workers
        """A slice's tokens of this worker: where heads are divided too, those of all who divide them."""
        rule = window_rule(model.lsh_window, model.causal, self.tokens, with_self=False)
        assert rule.reach is not None
        self.halo = max(0, rule.reach[1]) + max(0, -rule.reach[0])
        longest = max(budget.routed_entries, budget.routed_halos * self.halo)
        self.parts = math.ceil(self.tokens / longest)
        self.length = math.ceil(self.tokens / self.parts)
        """Queries of a part."""
        self.rows = self.length + self.halo
        """Rows that are received; about as many are sent."""
        self.places = (rule.before + math.ceil(self.length / rule.block) + rule.after) * rule.block
        """Places of a part with the blocks around it."""


def _undo_routes(work: Work, is_kept: bool) -> list[Parts]:
    """When most received rows are there, and when none are and tokens are sent again: all are where results are kept."""
    budget, group = work.budget, head_group(work)
    route, D = _Route(work), work.model.head_width
    slices, num_routes = _slices(work, route)
    num_kept = 0 if is_kept else min(num_routes, budget.kept_elements // (slices * route.places * 2 * D))
    row = slices * route.rows * work.element
    # Of rows sent those of routes ahead and of the one that starts, of rows received those of this route and the last.
    rows = (min(num_routes, budget.routes_ahead + 1) + min(num_routes, 2)) * row
    returning = min(num_routes, 2) * row * 2 * D
    statistics = Parts(lists=5 * group.entries * work.element + INDEX * slices * route.rows)
    moments = [statistics + Parts(kept=max(0, num_kept - 2) * row * 2 * D, under_way=returning + rows * (D + 2))]
    if num_kept < num_routes:
        moments.append(statistics + Parts(under_way=returning + rows * (3 * D + 2)))
    return moments


def segment(work: Work) -> Parts:
    """What a worker's segment comes to hold, for other workers of its machine to read, and does not give back.

    Bytes are free once all workers are known to have started an exchange after they had read them. For tokens of a route
    that is two routes after it was computed, when routes ahead are started and one starts; for its results two routes after
    they were read. A gap that is too narrow for tokens is left between results.
    """
    if work.bucket_workers == 1 or "lsh" not in work.model.layers:
        return Parts()
    route, D = _Route(work), work.model.head_width
    slices, num_routes = _slices(work, route)
    row = slices * route.rows * work.element * (work.bucket_workers - 1) // work.bucket_workers
    tokens, results = min(num_routes, work.budget.routes_ahead + 4), min(num_routes, 4)
    num_kept = work.budget.kept_elements // (slices * route.places * 2 * D)
    backward = D + 2 if num_kept >= num_routes else 3 * D + 2
    return Parts(segment=row * max(tokens * 2 * D + results * (D + 1), tokens * backward + results * 2 * D))


def _slices(work: Work, route: _Route) -> tuple[int, int]:
    """Slices of a route, and routes of a group of heads."""
    of_group = work.rows * head_group(work).heads // work.head_workers
    slices = min(of_group, max(1, work.budget.routed_entries // route.tokens))
    return slices, math.ceil(of_group / slices) * work.model.num_hashes * route.parts
