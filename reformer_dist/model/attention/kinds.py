"""The attention kinds by name, as `model.layers` gives them."""

from reformer_dist.model.attention.full_kind import FullKind
from reformer_dist.model.attention.kind import Kind
from reformer_dist.model.attention.local_kind import LocalKind
from reformer_dist.model.attention.lsh.kind import LSHKind

KINDS: dict[str, type[Kind]] = {"local": LocalKind, "lsh": LSHKind, "full": FullKind}
