"""Memory of what treats tokens by themselves or by their neighbourhood: feed-forward, loss, embeddings, local attention.

In: a worker's `Work`. Out: the moments of undoing each that can be its largest, without streams and finished gradients.

A moment is counted from the code: every tensor that is alive there, in the order in which autograd works. Activations are
counted for GELU. Legend: E model dimension, F feed-forward width, V vocabulary, I heads times head dimension.
"""

from reformer_dist.config import ModelConfig
from reformer_dist.config.sections.model import KEEP_LEVELS, KeepLevel
from reformer_dist.model.attention.kinds import KINDS
from reformer_dist.planning.memory.parts import Parts, Work

INDEX = 8
"""Bytes of an int64."""


def attention_weights(model: ModelConfig, kind: str) -> int:
    """Parameters of an attention layer: norm, projections, output."""
    inner = model.num_heads * model.head_width
    temperatures = model.num_heads if model.query_key_norm else 0
    matrices = (num_projections(kind) + 1) * inner * model.embed_dim
    return norm_weights(model, model.embed_dim) + convolution_weights(model) + temperatures + matrices


def num_projections(kind: str) -> int:
    """Queries, keys and values; of LSH, queries-keys and values."""
    return len(KINDS[kind].projections)


def feed_forward_weights(model: ModelConfig) -> int:
    """Parameters of a feed-forward layer."""
    E, F = model.embed_dim, model.feed_forward_dim
    num_inner = 2 if model.gated else 1
    return norm_weights(model, E) + convolution_weights(model) + num_inner * (E * F + F) + E * F + E


def norm_weights(model: ModelConfig, width: int) -> int:
    """Parameters of a norm over so many features."""
    return (2 if model.norm == "layer" else 1) * width


def convolution_weights(model: ModelConfig) -> int:
    """Parameters of a layer's convolution."""
    return model.convolution_width * model.embed_dim


def num_convolved(model: ModelConfig) -> int:
    """Tensors that a piece holds beside its normalised tokens: what the convolution makes of them."""
    return 1 if model.convolution_width else 0


def num_turned(model: ModelConfig, kind: str) -> int:
    """Projections that are turned by their positions: queries and keys, or queries-keys."""
    is_turned = model.is_lsh_rotary if kind == "lsh" else model.is_rotary
    return num_projections(kind) - 1 if is_turned else 0


def output_weights(model: ModelConfig) -> int:
    """Parameters of the output layer, without a weight that it shares with the embedding."""
    width = _output_width(model)
    return norm_weights(model, width) + model.vocab_size + (0 if model.tie_embeddings else model.vocab_size * width)


def position_weights(model: ModelConfig) -> int:
    """Parameters of position embeddings."""
    if model.positions == "axial":
        return sum(length * width for length, width in model.axial_factors)
    return model.max_length * model.embed_dim if model.positions == "learned" else 0


def stack_weights(model: ModelConfig) -> int:
    """Parameters of self-attention and feed-forward layers."""
    return sum(attention_weights(model, kind) + feed_forward_weights(model) for kind in model.layers)


def undo_feed_forward(work: Work, level: KeepLevel = "nothing") -> list[Parts]:
    """While the output matrix, and while the inner matrix is differentiated.

    In both the piece's norm, what the convolution makes of it, its contribution and the gradient of the piece before are
    there. A gate adds itself, the product with it, and both gradients. What is kept is not there once more.
    """
    model = work.model
    E, F = model.embed_dim, model.feed_forward_dim
    tokens = min(work.budget.feed_forward_tokens, work.tokens)
    narrow, wide = work.of_tokens(tokens, E), work.of_tokens(tokens, F)
    before = narrow if tokens < work.tokens else 0
    masks = narrow + wide if model.hidden_dropout else 0  # dropout's multipliers, which its gradient needs
    matrix, sums = E * F * work.element, feed_forward_weights(model) * work.element
    convolved = num_convolved(model)
    num_wide = 6 if model.gated else 3  # before activation, after it, and the gradient of either
    if keeps(level, "products"):
        num_wide -= 2 if model.gated else 1
    contributions = num_contributions(level)
    return [
        Parts(
            weight_gradients=sums + matrix,
            pieces=num_wide * wide + (1 + contributions + convolved) * narrow + before + masks,
        ),
        Parts(weight_gradients=sums + 2 * matrix, pieces=wide + (2 + contributions + convolved) * narrow + before),
    ]


def keeps(level: KeepLevel, what: KeepLevel) -> bool:
    """Whether a level keeps the results of another."""
    return KEEP_LEVELS.index(what) <= KEEP_LEVELS.index(level)


def num_contributions(level: KeepLevel) -> int:
    """Contributions of a piece that is undone: none where the stream before is kept."""
    return 0 if keeps(level, "streams") else 1


def undo_loss(work: Work) -> list[Parts]:
    """While the softmax, and while the matrix is differentiated.

    The gradients of the piece before are there too, the matrix's among them.
    """
    model = work.model
    width = _output_width(model)
    tokens = min(work.budget.loss_tokens, work.tokens)
    logits, normed = work.of_tokens(tokens, model.vocab_size), work.of_tokens(tokens, width)
    matrix = model.vocab_size * width * work.element
    sums = output_weights(model) * work.element + (matrix if model.tie_embeddings else 0)
    is_first = tokens == work.tokens
    before = Parts() if is_first else Parts(weight_gradients=matrix, pieces=normed)
    return [
        # log-softmax, gradient of the loss, gradient of the logits; both streams side by side, and normed
        before + Parts(weight_gradients=sums, pieces=3 * logits + 2 * normed),
        before + Parts(weight_gradients=sums + matrix, pieces=logits + 3 * normed),
    ]


def undo_local(work: Work, level: KeepLevel = "nothing") -> list[Parts]:
    """While attention, and while the projections of a stretch are differentiated."""
    model = work.model
    inner = model.num_heads * model.head_width
    window, sides = model.local_window, 1 if model.causal else 2
    reach = window - 1 if model.causal else window
    longest = max(work.budget.projected_tokens, 4 * window)
    own = min(longest, work.tokens)
    around = reach * sides if work.head_workers * work.bucket_workers > 1 else 0
    seen = min(own + sides * reach, work.tokens + around)
    normed, heads = work.of_tokens(seen, model.embed_dim), work.of_tokens(seen, inner)
    contribution = work.of_tokens(own, model.embed_dim)
    before = normed if own < work.tokens else 0
    matrix, sums = inner * model.embed_dim * work.element, attention_weights(model, "local") * work.element
    turned, convolved = num_turned(model, "local"), num_convolved(model)
    is_kept = keeps(level, "attention")
    statistics = Parts(lists=(1 if is_kept else 3) * work.of_tokens(seen, model.num_heads))
    num_kept = (1 if is_kept else 0) + (3 if keeps(level, "projections") else 0)
    contribution *= num_contributions(level)
    # of the stream and of its gradient: what is borrowed, and what is sent or comes home for it
    borrowed = Parts(borrowed=4 * work.of_tokens(around, model.embed_dim))
    return [
        # queries, keys, values, the result, and the gradients of these; queries and keys turned
        borrowed
        + statistics
        + Parts(
            weight_gradients=sums + matrix,
            pieces=(1 + convolved) * normed + (8 + turned - num_kept) * heads + contribution + before,
        ),
        borrowed + Parts(weight_gradients=sums + 4 * matrix, pieces=(5 + convolved) * normed + contribution + before),
    ]


def position_indices(work: Work) -> Parts:
    """Each position's index in every table, which the embeddings keep for their gradients."""
    tables = {"axial": len(work.model.axial_factors), "learned": 1, "none": 0}[work.model.positions]
    return Parts(found=tables * work.tokens * INDEX)


def _output_width(model: ModelConfig) -> int:
    return model.embed_dim if model.tie_embeddings else 2 * model.embed_dim
