"""LSH attention with shared queries and keys (Kitaev, Kaiser and Levskaya 2020), in three modes.

In: queries-keys and values [B, T, H, D] and random rotations. Out: [B, T, H, D]. Keys are the queries at unit length.

- `window`: in each hash round a query sees its last W predecessors of the same bucket (not causal: W on either side), in
  order of (bucket, position). What a token sees depends on the past alone.
- `chunked`: the rounds' sorted tokens, one round behind the other, cut into chunks of W; a query sees its own chunk and its
  neighbours, whatever their bucket. What trax, Hugging Face and lucidrains compute.
- `paper`: chunks within each round, the same bucket only, a pair that meets in several rounds counted once
  (equations 13-16 with N_ij).

In all of them a token attends to itself only when it sees nothing else in any round.

Legend: B batch, T tokens, H heads, D head dimension, R hash rounds, F half the sum of the bucket factors.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from torch import Tensor

from reformer_dist.model.attention.lsh.hashing import hash_buckets
from reformer_dist.model.backends.backend import KernelName
from reformer_dist.model.backends.choice import choose_for
from reformer_dist.model.backends.description import AttentionDropout, OrderedTokens
from reformer_dist.model.backends.rules import Rule, chunked_rule, window_rule
from reformer_dist.model.budget import Budget
from reformer_dist.model.context import Context
from reformer_dist.model.keeping import Kept

Mode = Literal["window", "chunked", "paper"]


def lsh_attention(
    qk_BTHD: Tensor,
    v_BTHD: Tensor,
    rotations: Tensor,
    *,
    num_buckets: int | Sequence[int] | None = None,
    mode: Mode = "window",
    window: int = 64,
    neighbours: tuple[int, int] = (1, 0),
    padded_length: int | None = None,
    causal: bool = True,
    own_value: bool = True,
    documents_BT: Tensor | None = None,
    buckets_BHRT: Tensor | None = None,
    context: Context | None = None,
    dropout: AttentionDropout | None = None,
    kernel: KernelName = "auto",
    budget: Budget | None = None,
    kept: Kept | None = None,
) -> Tensor:
    """Attend to the keys that share a hash; results are [B, T, H, D], in the dtype of the values.

    Args:
        qk_BTHD: shared queries-keys, not normalised; float32, float64 or bfloat16.
        v_BTHD: values, of the same shape and dtype.
        rotations: [D, R, F] shared by the heads, or [H, D, R, F].
        num_buckets: buckets of a round, or their factors; by default 2 F.
        mode: see above.
        window: keys W that a query sees in a round (window mode), or the chunk length.
        neighbours: chunks (before, after) its own that a query sees, in chunked and paper mode.
        padded_length: length to which chunked mode pads the tokens; by default the next multiple of the chunk.
        causal: whether a query sees only earlier positions.
        own_value: whether a token that sees nothing else in any round gets its own value, or nothing.
        documents_BT: document of each token, -1 for padding; tokens see only their own document.
        buckets_BHRT: buckets to use instead of hashing, as `hash_buckets` returns them.
        context: documents and the shard's place, instead of `documents_BT` alone.
        dropout: of attention weights; None for none.
        kernel: "auto" or "plain".
        budget: what exists at a time; by default the default limits.
        kept: where results are kept from the forward to the backward pass; None where none are.

    Raises:
        ValueError: shapes that do not fit, or an unknown mode.
    """
    factors, T = _check(qk_BTHD, v_BTHD, rotations, num_buckets, mode, window), qk_BTHD.shape[1]
    if buckets_BHRT is None:
        buckets_BHRT = hash_buckets(qk_BTHD, rotations, factors, kernel, budget)
    if mode == "chunked" and max(T, padded_length or T) <= window:
        buckets_BHRT = buckets_BHRT[:, :, :1]  # every round is the same single chunk, so one round says it all
    blocks = OrderedTokens(
        rule=_rule(mode, window, neighbours, causal, T, padded_length, own_value),
        budget=budget or Budget(),
        dropout=dropout,
        context=context or Context(documents_BT=documents_BT),
        buckets_BHRT=buckets_BHRT,
        num_buckets=math.prod(factors),
        kept=kept,
    )
    return choose_for(qk_BTHD, blocks, kernel).attend(qk_BTHD, None, v_BTHD, blocks)


def _rule(
    mode: Mode,
    window: int,
    neighbours: tuple[int, int],
    causal: bool,
    length: int,
    padded_length: int | None,
    own_value: bool,
) -> Rule:
    compare: Literal["earlier", "other"] = "earlier" if causal else "other"
    if mode == "window":
        rule = window_rule(window, causal, length, with_self=False)
    elif mode == "paper":
        rule = Rule(window, *neighbours, None, compare, once=True)
    else:
        rule = chunked_rule(window, neighbours, length, padded_length, compare, masked_self_score=True)
    return replace(rule, own_value=own_value)


def _check(
    qk_BTHD: Tensor, v_BTHD: Tensor, rotations: Tensor, num_buckets: int | Sequence[int] | None, mode: str, window: int
) -> tuple[int, ...]:
    if mode not in ("window", "chunked", "paper"):
        raise ValueError(f"mode = {mode!r} must be window, chunked or paper")
    if qk_BTHD.dim() != 4 or qk_BTHD.shape != v_BTHD.shape:
        raise ValueError(f"qk {tuple(qk_BTHD.shape)} and v {tuple(v_BTHD.shape)} must have one shape [B, T, H, D]")
    if window < 1:
        raise ValueError(f"window = {window} must be at least 1; 64 works")
    width = rotations.shape[-1]
    if num_buckets is None:
        factors: tuple[int, ...] = (2 * width or 1,)
    else:
        factors = (num_buckets,) if isinstance(num_buckets, int) else tuple(num_buckets)
    if rotations.dim() not in (3, 4) or rotations.shape[-3] != qk_BTHD.shape[-1]:
        raise ValueError(
            f"rotations {tuple(rotations.shape)} must be [D, R, buckets / 2] with D = {qk_BTHD.shape[-1]}, the head width"
        )
    if sum(factor // 2 for factor in factors) != width:
        raise ValueError(
            f"rotations have {width} columns, num_buckets = {num_buckets} needs half the sum of its factors"
        )
    return factors
