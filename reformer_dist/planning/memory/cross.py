"""Memory of an encoder-decoder beside its self-attention and feed-forward layers: cross-attention, the encoder's norm.

In: a worker's `Work`. Out: the moments of undoing a cross-attention layer that can be its largest, without streams and
finished gradients; what LSH cross-attention keeps for it; the norm's own. One tensor of the keys of the heads that are
worked on, [B, S, g, D] of the whole source, is called a tensor here.

Counted from the code with documents given, as in training, of which each row has one. Several documents of a row take less.
"""

import math
from typing import NamedTuple

from reformer_dist.config import ModelConfig
from reformer_dist.planning.memory.attention import bucket_bytes
from reformer_dist.planning.memory.layers import INDEX, norm_weights
from reformer_dist.planning.memory.parts import Parts, Work

_HASHING = 3
"""Tensors of int64 that exist at a time where keys are sorted, or dropout's draws are made."""


class Group(NamedTuple):
    """The heads that are worked on at a time, and the queries."""

    heads: int
    """How many."""
    tensor: int
    """Bytes of the keys of these heads, of the whole source."""
    others: float
    """The next group's heads for each of these; 0 where there is no other group."""
    source: int
    """Tokens of the whole source."""
    tokens: int
    """Queries of a row in a piece."""


def cross_weights(model: ModelConfig) -> int:
    """Parameters of a cross-attention layer: norm, projections, output."""
    inner = model.num_heads * model.head_width
    temperatures = model.num_heads if model.query_key_norm else 0
    return norm_weights(model, model.embed_dim) + temperatures + 4 * inner * model.embed_dim


def cross_group(work: Work) -> Group:
    """The largest group of heads, and the queries that meet it at a time."""
    model, budget = work.model, work.budget
    source = work.source_tokens * work.num_shards
    elements = work.rows * source * model.head_width
    heads = min(model.num_heads, max(1, budget.head_elements // elements))
    tokens = max(1, _limit(work, source) // (work.rows * heads))
    tokens = min(tokens, budget.projected_tokens, work.tokens)
    others = min(1.0, (model.num_heads - heads) / heads)
    return Group(heads, elements * heads * work.element, others, source, tokens)


def found_by_cross(work: Work) -> Parts:
    """What one layer's forward pass keeps for the undo: of LSH the queries' buckets, of full attention nothing."""
    model = work.model
    if model.cross_attention != "lsh":
        return Parts()
    entries = work.rows * work.tokens * model.num_heads * model.num_hashes
    return Parts(found=entries * bucket_bytes(model.encoder))


def undo_cross(work: Work) -> list[Parts]:
    """When the next heads' keys are made, when queries are differentiated, and when keys and values are.

    Keys, values and the sums of their gradients are there, beside what a piece has of its own.
    """
    model, group = work.model, cross_group(work)
    E, inner = model.embed_dim, model.num_heads * model.head_width
    matrix, sums = inner * E * work.element, cross_weights(model) * work.element
    narrow = work.of_tokens(group.tokens, E)
    index = Parts(lists=_key_order(work, group))
    held = index + Parts(weight_gradients=sums, pieces=narrow)  # the contribution
    moments = [
        held + Parts(weight_gradients=matrix, heads=4 * group.tensor, pieces=narrow) + part
        for part in _attention(work, group)
    ]
    # both of a piece's gradients, and of the norm the output, its gradient and the input's
    moments.append(held + Parts(weight_gradients=2 * matrix, heads=6 * group.tensor, pieces=3 * narrow))
    moments.append(_undo_keys(work, group))
    if group.others:
        moments.append(Parts(weight_gradients=sums) + _next_keys(work, group))
    return moments


def undo_norm(work: Work) -> Parts:
    """While the encoder's norm is differentiated, without the streams: a piece's mean and norm, and gradients of either."""
    tokens = min(work.budget.projected_tokens, work.source_tokens)
    weights = 2 * norm_weights(work.model, work.model.embed_dim) * work.element
    return Parts(weight_gradients=weights, pieces=4 * work.of_tokens(tokens, work.model.embed_dim))


def _limit(work: Work, source: int) -> int:
    """Queries of all rows and heads that the budget allows at a time."""
    model, budget = work.model, work.budget
    if model.cross_attention == "full":
        return budget.cross_scores // source
    return budget.cross_gathered // (_num_seen(model, source) * model.head_width)


def _num_seen(model: ModelConfig, source: int) -> int:
    """Keys that an LSH query is shown in all rounds."""
    return model.num_hashes * min(model.lsh_window, source)


def _key_order(work: Work, group: Group) -> int:
    """Bytes of the keys' order and what it is ordered by, in all rounds."""
    if work.model.cross_attention != "lsh":
        return 0
    return 2 * INDEX * work.rows * group.heads * work.model.num_hashes * group.source


def _attention(work: Work, group: Group) -> list[Parts]:
    """What attention of a piece holds while it is differentiated, beside keys, values and the sums of their gradients."""
    queries = work.of_tokens(group.tokens, work.model.head_width * group.heads)
    return (_full if work.model.cross_attention == "full" else _lsh)(work, group, queries)


def _full(work: Work, group: Group, queries: int) -> list[Parts]:
    """Queries, results (once more as they are joined, and in another order of dimensions), and gradients of either."""
    masks = work.rows * group.tokens * group.source
    # of several rows the gradients of one are put into tensors of all, and those added to the sum of the rows before
    of_rows = group.tensor + 2 * group.tensor // work.rows if work.rows > 1 else 0
    both = Parts(heads=2 * group.tensor + of_rows, pieces=6 * queries)
    if not work.model.attention_dropout:
        # who sees whom, as torch's operator takes it
        return [both + Parts(lists=masks * work.element)]
    scores = masks * group.heads
    hashes = Parts(lists=_HASHING * INDEX * scores, pieces=queries)
    # weights before and after dropout, its multipliers, who sees whom; of the weights' gradients two at a time
    return [hashes, both + Parts(lists=(5 * work.element + 1) * scores)]


def _lsh(work: Work, group: Group, queries: int) -> list[Parts]:
    """While gathered keys are differentiated, and while their gradients are brought back to the source."""
    model = work.model
    seen = work.rows * group.heads * group.tokens * _num_seen(model, group.source)
    gathered = seen * model.head_width * work.element
    kept = 3 * work.element if model.attention_dropout else work.element
    lists = (INDEX + 1 + kept) * seen  # which keys, whether they are seen, weights
    return [
        Parts(lists=lists + 2 * work.element * seen, pieces=5 * queries + 3 * gathered),
        Parts(heads=2 * group.tensor, lists=INDEX * seen, pieces=queries + gathered),
    ]


def _undo_keys(work: Work, group: Group) -> Parts:
    """While the projections of keys and values are differentiated, or gradients of the whole source are given back."""
    model = work.model
    matrix = model.num_heads * model.head_width * model.embed_dim * work.element
    tokens = min(work.budget.projected_tokens, work.source_tokens)
    piece, projected = work.of_tokens(tokens, model.embed_dim), work.of_tokens(tokens, model.head_width * group.heads)
    sums = Parts(weight_gradients=cross_weights(model) * work.element, heads=2 * group.tensor)
    if work.num_shards > 1:
        sent = group.tensor if work.rows > 1 else 0
        return sums + Parts(exchanged=group.tensor + sent + group.tensor // work.num_shards)
    return sums + Parts(weight_gradients=2 * matrix, pieces=3 * piece + 2 * projected)


def _next_keys(work: Work, group: Group) -> Parts:
    """While the next heads' keys and values are made by pieces and joined, or ordered."""
    new = math.ceil(group.others * group.tensor)
    if work.num_shards > 1:
        return Parts(exchanged=2 * new + 4 * math.ceil(new / work.num_shards) + (work.rows > 1) * new)
    ordering = math.ceil(_HASHING / 2 * group.others * _key_order(work, group))
    return max(Parts(heads=4 * new), Parts(heads=2 * new, lists=ordering), key=lambda parts: parts.total)
