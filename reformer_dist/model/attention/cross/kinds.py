"""The kinds of cross-attention by name, as `model.cross_attention` gives them."""

from reformer_dist.model.attention.cross.full import FullCross
from reformer_dist.model.attention.cross.kind import CrossKind
from reformer_dist.model.attention.cross.lsh import LSHCross

CROSS_KINDS: dict[str, type[CrossKind]] = {
    "full": FullCross,
    "lsh": LSHCross,
}
