"""Local attention: every token attends to its neighbourhood.

In: queries, keys and values [B, T, H, D]. Out: [B, T, H, D].

- `window`: the last `window` tokens, itself included (not causal: itself and `window` on either side).
- `chunked`: its own chunk and the neighbouring ones, as Hugging Face computes (chunks wrap around).

Legend: B batch, T tokens, H heads, D head dimension.
"""

from typing import Literal

from torch import Tensor

from reformer_dist.model.backends.backend import KernelName
from reformer_dist.model.backends.choice import choose_for
from reformer_dist.model.backends.description import AttentionDropout, OrderedTokens
from reformer_dist.model.backends.rules import chunked_rule, window_rule
from reformer_dist.model.budget import Budget
from reformer_dist.model.context import Context
from reformer_dist.model.keeping import Kept


def local_attention(
    q_BTHD: Tensor,
    k_BTHD: Tensor,
    v_BTHD: Tensor,
    *,
    mode: Literal["window", "chunked"] = "window",
    window: int = 64,
    neighbours: tuple[int, int] = (1, 0),
    padded_length: int | None = None,
    causal: bool = True,
    context: Context | None = None,
    dropout: AttentionDropout | None = None,
    kernel: KernelName = "auto",
    budget: Budget | None = None,
    kept: Kept | None = None,
) -> Tensor:
    """Attend to the neighbourhood, with scores q . k / sqrt(D).

    Args:
        q_BTHD: queries, float32, float64 or bfloat16; keys and values have the same shape and dtype.
        k_BTHD: keys.
        v_BTHD: values.
        mode: see above.
        window: tokens that a query sees, or the chunk length.
        neighbours: chunks (before, after) its own that a query sees, in chunked mode.
        padded_length: length to which chunked mode pads the tokens; by default the next multiple of the chunk.
        causal: whether a query sees only itself and earlier positions.
        context: documents and the shard's place; tokens see only their own document.
        dropout: of attention weights; None for none.
        kernel: "auto" or "plain".
        budget: what exists at a time; by default the default limits.
        kept: where results are kept from the forward to the backward pass; None where none are.

    """
    T = q_BTHD.shape[1]
    if mode == "window":
        rule = window_rule(window, causal, T, with_self=True)
    else:
        rule = chunked_rule(window, neighbours, T, padded_length, "up to" if causal else "any")
    blocks = OrderedTokens(
        rule=rule, budget=budget or Budget(), dropout=dropout, context=context or Context(), kept=kept
    )
    return choose_for(q_BTHD, blocks, kernel).attend(q_BTHD, k_BTHD, v_BTHD, blocks)
