"""Memory of what layers keep from the forward to the backward pass, by `model.keep`.

In: a worker's `Work`, a layer's kind and level. Out: the bytes of its results; and of the stream that it adds to.

Counted from the code, for the compiled operators.
"""

from reformer_dist.config.sections.model import KeepLevel
from reformer_dist.planning.memory.layers import keeps, num_projections
from reformer_dist.planning.memory.parts import Work

_STATISTICS = 2
"""Numbers that attention keeps of a token and head: its log-sum-exp, and the weight on its own value."""


def streams_before(work: Work, levels: list[KeepLevel]) -> list[int]:
    """Of each layer of a stack the stream that it adds to, if that is kept; the first two layers' are one tensor."""
    kept = [work.stream if keeps(level, "streams") else 0 for level in levels]
    if kept[0] and kept[1]:
        kept[1] = 0
    return kept


def attention_results(work: Work, kind: str, level: KeepLevel) -> int:
    """Results and projections of a self-attention layer."""
    model, tokens = work.model, work.tokens
    if kind == "local" and model.local_mode == "window":
        tokens += _met_twice(work)
    width = model.num_heads * model.head_width
    found = num_projections(kind) * work.of_tokens(tokens, width) if keeps(level, "projections") else 0
    if kind != "full" and keeps(level, "attention"):
        found += work.of_tokens(tokens, width + _STATISTICS * model.num_heads)
    return found


def feed_forward_results(work: Work, level: KeepLevel) -> int:
    """Inner products of a feed-forward layer."""
    num_inner = 2 if work.model.gated else 1
    return num_inner * work.of_tokens(work.tokens, work.model.feed_forward_dim) if keeps(level, "products") else 0


def cross_results(work: Work, level: KeepLevel) -> int:
    """Queries, and this shard's keys and values, of a cross-attention layer."""
    width = work.model.num_heads * work.model.head_width
    if not keeps(level, "projections"):
        return 0
    return work.of_tokens(work.tokens, width) + 2 * work.of_tokens(work.source_tokens, width)


def _met_twice(work: Work) -> int:
    """Tokens around the pieces of local attention, which each piece has again."""
    model = work.model
    longest = max(work.budget.projected_tokens, 4 * model.local_window)
    edges = -(-work.tokens // longest) - (0 if work.head_workers * work.bucket_workers > 1 else 1)
    return edges * (model.local_window - 1 if model.causal else 2 * model.local_window)
