"""How much memory a training step takes, from a configuration, before anything runs.

In: a model, what a worker works on of it, and the `Budget`. Out: the moment of the forward and backward pass at which most
exists, by what it is; what a training run holds all the time beside it; and what exists when the optimizer steps.

The formula is a count, not a fit: of each layer it lists the tensors that are alive when it is undone. Only that is
listed, since the forward walk holds as many streams (two, the embeddings, and a layer's contribution) and less of every
layer. It holds for reversible models in float32 and float64 on a CPU with the compiled operators.

What the process takes is that only where freed memory goes back at once: with MALLOC_MMAP_THRESHOLD_ set, say to 65536.
glibc otherwise keeps part of what is freed, more the more often large tensors come and go.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from reformer_dist.config import Config, ModelConfig
from reformer_dist.config.sections.model import KeepLevel
from reformer_dist.planning.memory import attention, cross, kept, layers
from reformer_dist.planning.memory.parts import Parts, Work, largest
from reformer_dist.planning.memory.weights import matrix_weights, num_weights

UNTRACKED = 2 * 2**20
"""What no tensor holds: panels that matrix products pack, of one thread, and pages of the heap that are part free."""

_KINDS = frozenset({"local", "lsh", "full"})
"""Kinds of attention that are counted."""


@dataclass(frozen=True)
class Moment:
    """A moment of a step."""

    name: str
    """What is done: "layer 3 attention", of an encoder-decoder "encoder layer 3 attention"."""
    parts: Parts
    """What exists."""


@dataclass(frozen=True)
class Held:
    """Bytes that a worker of a training run holds from step to step, without what DeepSpeed keeps for its collectives.

    That was measured once, with two workers and a model of 71 MiB: 45 MiB at ZeRO 1 and 2, 150 at 3.
    """

    weights: int
    """The model."""
    master_weights: int
    """ZeRO's own copy of this worker's part, from stage 1."""
    optimizer: int
    """Two moments of AdamW's weights, one of Muon's."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.master_weights + self.optimizer


def step_memory(work: Work) -> Moment:
    """The moment at which a forward and backward pass takes most, above what the process held before.

    Raises:
        ValueError: a model that the formula does not count.
    """
    peak = max(moments(work), key=lambda moment: moment.parts.total)
    return Moment(peak.name, peak.parts + Parts(untracked=UNTRACKED))


def moments(work: Work) -> Iterator[Moment]:
    """The largest moment of undoing each layer, in the order of the backward pass.

    Raises:
        ValueError: a model that the formula does not count.
    """
    _check(work)
    if work.model.encoder_layers:
        yield from _moments_of_both(work)
        return
    always = _kept(work) + attention.segment(work) + Parts(streams=_num_streams(work) * work.stream)
    yield Moment("loss", always + _results(work) + largest(layers.undo_loss(work)))
    yield from _undone_stack(work, always, _done_by_loss(work.model), "")
    yield Moment("embeddings", always + Parts(weight_gradients=num_weights(work.model) * work.element))


def _moments_of_both(work: Work) -> Iterator[Moment]:
    """Of an encoder-decoder: the decoder's beside the encoder's results, then the encoder's beside what is left of those.

    A graph that is differentiated keeps what its functions hold: each stack its two streams and what it found, and the
    decoder the encoder's memory.
    """
    model, size, encoder = work.model, work.element, work.of_encoder
    found = _kept(work) + _kept(encoder) + largest((attention.segment(work), attention.segment(encoder)))
    for _ in model.layers:
        found += cross.found_by_cross(work)
    read = _results(encoder)
    target, source, both = work.stream, encoder.stream, work.stream + encoder.stream
    dropped = source if model.hidden_dropout else 0
    always = found + read + Parts(streams=3 * source + dropped + _num_streams(work) * target)
    yield Moment("loss", always + _results(work) + largest(layers.undo_loss(work)))
    always += Parts(streams=source)  # the memory's gradient
    done = yield from _undone_stack(work, always, _done_by_loss(model), "decoder ")
    done += layers.position_weights(model)
    # The gradient of the target's vectors is put into one of both sides' vectors.
    here = found + read + Parts(streams=4 * source + dropped + 3 * target + both, weight_gradients=done * size)
    yield Moment("decoder embeddings", here)
    always = found + Parts(streams=2 * target + both + source + dropped)
    here = always + read + Parts(streams=5 * source, weight_gradients=done * size)
    yield Moment("encoder norm", here + cross.undo_norm(work))
    done += layers.norm_weights(model, model.embed_dim)
    # Streams and their gradients are the graph's, until there are copies that may be changed.
    here = always + read + Parts(streams=8 * source, weight_gradients=done * size)
    yield Moment("encoder streams", here)
    yield from _undone_stack(encoder, always + Parts(streams=6 * source), done, "encoder ")
    streams = always + Parts(streams=3 * source + both)
    yield Moment("embeddings", streams + Parts(weight_gradients=num_weights(model) * size))


def _undone_stack(work: Work, always: Parts, done: int, whose: str) -> Generator[Moment, None, int]:
    """Undoing a stack's layers beside what is always there and `done` weights' gradients; returns how many are done then."""
    still_kept = _results(work)
    for layer in reversed(_stack(work)):
        still_kept = still_kept + Parts(streams=-layer.stream)
        here = always + still_kept + Parts(weight_gradients=done * work.element)
        yield Moment(f"{whose}{layer.name}", here + layer.undo)
        still_kept = still_kept + Parts(results=-layer.results)
        done += layer.weights
    return done


class _Layer(NamedTuple):
    """What counts of a layer of a stack."""

    name: str
    weights: int
    """Parameters."""
    undo: Parts
    """The largest moment of its undoing."""
    results: int
    """Bytes of what it keeps."""
    stream: int
    """Bytes of the stream that it adds to, if that is kept."""


def _stack(work: Work) -> list[_Layer]:
    """The layers of a stack, in the order of the forward pass."""
    model, found = work.model, list[_Layer]()
    levels = [level for level in model.kept_by_layers for _ in range(3 if model.encoder_layers else 2)]
    streams = iter(kept.streams_before(work, levels))
    for layer, (kind, level) in enumerate(zip(model.layers, model.kept_by_layers, strict=True)):
        attention_results = kept.attention_results(work, kind, level)
        undo = largest(_undo_attention(work, kind, level))
        weights = layers.attention_weights(model, kind)
        found.append(_Layer(f"layer {layer} attention", weights, undo, attention_results, next(streams)))
        if model.encoder_layers:
            undo, weights = largest(cross.undo_cross(work)), cross.cross_weights(model)
            results = kept.cross_results(work, level)
            found.append(_Layer(f"layer {layer} cross-attention", weights, undo, results, next(streams)))
        undo, weights = largest(layers.undo_feed_forward(work, level)), layers.feed_forward_weights(model)
        results = kept.feed_forward_results(work, level)
        found.append(_Layer(f"layer {layer} feed-forward", weights, undo, results, next(streams)))
    return found


def _results(work: Work) -> Parts:
    """What a stack's layers keep by `model.keep`."""
    stack = _stack(work)
    return Parts(streams=sum(layer.stream for layer in stack), results=sum(layer.results for layer in stack))


def _kept(work: Work) -> Parts:
    """What a stack's forward pass keeps for the backward pass beside the streams."""
    kept = layers.position_indices(work)
    for _ in range(work.model.layers.count("lsh")):
        kept += attention.found_by(work)
    return kept


def _num_streams(work: Work) -> int:
    """Streams and gradients of the stack that writes, while it is undone.

    Dropout of the embeddings keeps its multipliers; tied weights make the gradients come twice, from outside.
    """
    return 4 + (1 if work.model.hidden_dropout else 0) + (2 if work.model.tie_embeddings else 0)


def _done_by_loss(model: ModelConfig) -> int:
    """Weights that have gradients once the loss has."""
    return layers.output_weights(model) + (model.vocab_size * model.embed_dim if model.tie_embeddings else 0)


def held_memory(config: Config) -> Held:
    """What a worker holds all the time: weights and the optimizer's state as ZeRO divides them."""
    weights, matrices = _weights(config)
    stage = config.parallel.zero_stage
    part, matrix_part = _part(config, weights), _part(config, matrices)
    moments = 2 * (part if stage else weights) - (matrix_part if stage else matrices)
    return Held(part if stage == 3 else weights, part if stage else 0, moments)


def update_memory(config: Config) -> int:
    """The least that exists while the optimizer steps, above what is held: gradients, and matrices that Muon has together.

    Of these a worker that has a part of the matrices (ZeRO 1 to 3) has it three times: what it sends, what it receives, and
    whole matrices. At ZeRO 0 it sends and receives as much as all matrices, beside those that it owns.
    """
    weights, matrices = _weights(config)
    gradients = weights if config.parallel.zero_stage < 2 else _part(config, weights)
    part = _part(config, matrices)
    return gradients + (3 * part if config.parallel.zero_stage else 2 * matrices + part)


def _weights(config: Config) -> tuple[int, int]:
    """Bytes of all weights, and of those that Muon trains."""
    size = 8 if config.train.dtype == "float64" else 4
    matrices = matrix_weights(config.model) if config.optimizer.name == "muon" else 0
    return num_weights(config.model) * size, matrices * size


def _part(config: Config, total: int) -> int:
    """One worker's, of what is divided among all."""
    return -(-total // config.train.min_workers)


def _undo_attention(work: Work, kind: str, level: KeepLevel) -> list[Parts]:
    if kind == "local" and work.model.local_mode == "window":
        return layers.undo_local(work, level)
    return attention.undo_heads(work, kind, level)


def _check(work: Work) -> None:
    model = work.model
    for field, is_counted, works in (
        ("layers", {*model.layers} <= _KINDS, "local,lsh"),
        ("encoder_layers", {*model.encoder_layers} <= _KINDS, "local,lsh"),
        ("cross_attention", model.cross_attention in ("full", "lsh") or not model.encoder_layers, "full"),
        ("reversible", model.reversible, "true"),
        ("lsh_mode", model.lsh_mode != "paper" or "lsh" not in model.kinds, "window"),
        ("attention_kernel", model.attention_kernel == "auto", "auto"),
    ):
        if not is_counted:
            value = getattr(model, field)
            raise ValueError(f"model.{field} = {value} is not in the memory formula; {works} works")
