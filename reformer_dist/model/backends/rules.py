"""Rules: which keys a query sees among the ordered tokens of a hash round.

In: a window or a chunk length. Out: a `Rule`, which every backend follows. A round's order is cut into blocks; a query looks
into its own block and some around it, and the rule says which of their keys it sees.
"""

import math
from dataclasses import dataclass
from typing import Literal

Comparison = Literal["earlier", "other", "up to", "any"]


@dataclass(frozen=True)
class Rule:
    """Which keys a query sees, given the blocks around it."""

    block: int
    """Block length W."""
    before: int
    """Blocks before its own that a query looks into."""
    after: int
    """Blocks behind its own that a query looks into."""
    reach: tuple[int, int] | None
    """Smallest and largest distance back in the list, query place - key place; None for all of the blocks."""
    compare: Comparison
    """Which positions a key may have: before the query's, any but it, up to and with it, or any."""
    same_bucket: bool = True
    """Whether a query and a key must share the bucket; the document they always share."""
    circular: bool = False
    """Whether the rounds form a circle, one behind the other, as in trax and Hugging Face: a round's first block sees the
    last blocks of the round before it, the first round's those of the last."""
    empty: int = 0
    """Blocks of padding behind the blocks of each round. They hold no token, but on a circle they stand between this round's
    last tokens and the next round's first block, which sees fewer of them."""
    once: bool = False
    """Whether a pair that meets in several rounds counts once (the paper's N_ij) or every time."""
    masked_self_score: bool = False
    """How a token that sees no other key gets its own value: with a self score of -1e5 among the scores, as Hugging Face
    computes, which rounds the weight a little, or exactly."""
    own_value: bool = True
    """Whether a token that sees no key in any round gets its own value, or nothing."""

    def __post_init__(self) -> None:
        """Within reach a token is recognised by its place: positions are not compared."""
        assert self.reach is None or self.compare in ("any", "other")


def window_rule(window: int, causal: bool, length: int, with_self: bool) -> Rule:
    """The last `window` keys, on both sides when not causal; `with_self` counts the token itself among them."""
    window = min(window, length)
    block = min(max(window // 2, 16), length, 256)
    furthest = window - 1 if with_self and causal else window
    blocks = math.ceil(furthest / block)
    if causal:
        return Rule(block, blocks, 0, (0 if with_self else 1, furthest), "any")
    return Rule(block, blocks, blocks, (-furthest, furthest), "any" if with_self else "other")


def chunked_rule(
    chunk: int,
    neighbours: tuple[int, int],
    length: int,
    padded_length: int | None,
    compare: Comparison,
    *,
    masked_self_score: bool = False,
) -> Rule:
    """Chunks in a circle, whatever the bucket. A sequence padded to one chunk has no neighbours: no chunk meets itself.

    `padded_length` is at least `length`, by default the next multiple of the chunk. Of the chunks of padding behind the
    sequence's own, only as many matter as a query looks past.
    """
    own = math.ceil(length / chunk)
    total = max(own, math.ceil((padded_length or length) / chunk))
    before, after = neighbours if total > 1 else (0, 0)
    empty = min(total - own, max(before, after))
    return Rule(
        chunk,
        before,
        after,
        None,
        compare,
        same_bucket=False,
        circular=True,
        empty=empty,
        masked_self_score=masked_self_score,
    )
