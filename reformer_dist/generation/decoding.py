"""Token-by-token decoding with memories, equal to running the whole sequence at once.

In: a causal model and prompts. Out: the next token's logits, again and again. A token costs the same whatever came before:
an LSH layer looks at the last W keys of its bucket in every round, a local layer at the last W tokens. (A full layer looks
at everything.)

What a layer remembers is in model/attention/decoding.py and model/layers/decoding.py.

Legend: B batch, T tokens, E model dimension, V vocabulary.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from reformer_dist.model.attention.cross.decoding import DecodingCrossAttention
from reformer_dist.model.attention.cross.layer import CrossAttention
from reformer_dist.model.attention.decoding import DecodingAttention
from reformer_dist.model.attention.layer import Attention
from reformer_dist.model.attention.memory import Place
from reformer_dist.model.attention.rotary import waves
from reformer_dist.model.backends.backend import DecodingPlan
from reformer_dist.model.context import Source
from reformer_dist.model.layers.decoding import DecodingFeedForward, DecodingOutput
from reformer_dist.model.layers.feed_forward import FeedForward
from reformer_dist.model.reformer import ReformerLM
from reformer_dist.model.reversible.layer import Layer
from reformer_dist.model.token_model import TokenModel

Read = Callable[[Tensor], tuple["Decoder", Tensor]]
"""A prompt [T] in, a decoder of one row that has read it and the logits [1, V] after it out."""


class Decoder:
    """A causal model with what it must remember of the tokens so far, of a batch of rows, and of their sources if any.

    In exact arithmetic its logits are `model(tokens)`'s. In float32 a token that lies almost between two buckets can hash
    differently on the two paths, since their sums round differently. By the compiled operators the logits of one token
    more depend, to the last bit, neither on the batch's other rows nor on the number of threads.
    """

    def __init__(self, model: TokenModel, source: Source | None = None) -> None:
        """Start with nothing read; uses the model in evaluation, whatever its mode.

        Args:
            model: a language model, or an encoder-decoder.
            source: what the encoder has made of the sources of the rows, each one document.

        Raises:
            ValueError: the model is not causal, or its attention looks at the future's hashes.

        """
        if not model.config.causal:
            raise ValueError("model.causal = False cannot be decoded token by token; True works")
        self.model = model
        self.lengths: list[int] = []
        """Tokens that each row has read."""
        with torch.no_grad():
            self.layers = [_decoding(layer, source) for layer in model.stack.layers]
        """Each layer with what it remembers."""
        self._output = DecodingOutput(model.output)
        self._plan: DecodingPlan | None = None
        self._is_planned = True  # until a layer is found that no plan has code for

    @torch.no_grad()
    def begin(self, num_rows: int) -> None:
        """Begin with rows that have read nothing, to go on by `next` alone."""
        nothing_B0E = self.model.embedding.weight.new_empty(num_rows, 0, self.model.config.embed_dim)
        for layer in self.layers:
            layer.begin(nothing_B0E)
        self.lengths, self._plan = [0] * num_rows, None

    @torch.no_grad()
    def read(self, tokens_BT: Tensor, only_last: bool = False) -> Tensor:
        """Take in tokens [B, T] int64; returns the logits after each [B, T, V], or after the last alone [B, 1, V].

        The first ones are read at once, later ones one after the other.

        Raises:
            ValueError: more tokens than max_length.

        """
        longest, most = max(self.lengths, default=0) + tokens_BT.shape[1], self.model.config.max_length
        if longest > most:
            raise ValueError(f"{longest} tokens are more than model.max_length = {most}")
        was_training = self.model.training
        self.model.eval()
        if self.lengths:
            logits = [self.next(tokens_B) for tokens_B in tokens_BT.unbind(1)]
            logits_BTV = torch.stack(logits[-1:] if only_last else logits, dim=1)
        else:
            logits_BTV = self._read_first(tokens_BT, only_last)
        self.model.train(was_training)
        return logits_BTV

    @torch.no_grad()
    def next(self, tokens_B: Tensor) -> Tensor:
        """Take in one token more of every row [B] int64, after `begin` or `read`; returns the logits after it [B, V].

        Raises:
            ValueError: more tokens than max_length.

        """
        config = self.model.config
        if max(self.lengths) >= config.max_length:
            raise ValueError(f"{max(self.lengths) + 1} tokens are more than model.max_length = {config.max_length}")
        positions_B = torch.tensor(self.lengths, device=tokens_B.device)
        waves_BF = None
        if config.is_rotary:
            dtype = self.model.embedding.weight.dtype
            waves_BF = waves(positions_B, config.head_width, config.rotary_base, dtype)
        place = Place(positions_B, max(self.lengths), waves_BF)
        streams = self._next(self.model.embed(tokens_B[:, None], positions_B[:, None])[:, 0], place)
        self.lengths = [length + 1 for length in self.lengths]
        return self._output.next(*streams)

    def probabilities(self, logits_BV: Tensor) -> Tensor:
        """Of the next token, from its logits; by the compiled operators the same to the last bit, as those are."""
        return self._output.probabilities(logits_BV)

    def extend(self, others: Sequence["Decoder"]) -> None:
        """Add the rows of other decoders of the same model behind this one's; they are not to be used any more."""
        for own, *theirs in zip(self.layers, *(other.layers for other in others), strict=True):
            own.extend(theirs)
        self.lengths += [length for other in others for length in other.lengths]
        self._plan = None

    @torch.no_grad()
    def take(self, rows_N: Tensor) -> None:
        """Go on with these rows [N] int64, any number of times each."""
        for layer in self.layers:
            layer.take(rows_N)
        self.lengths, self._plan = [self.lengths[row] for row in rows_N.tolist()], None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.embedding.weight.device

    @property
    def num_bytes(self) -> int:
        """What is remembered of keys, values and buckets."""
        return sum(layer.num_bytes for layer in self.layers)

    def _next(self, x_BE: Tensor, place: Place) -> tuple[Tensor, Tensor]:
        """Both streams after all layers."""
        if self._is_planned and (self._plan is None or place.longest >= self._plan.room):
            self._plan = self._output.make_plan()
            added = (self._plan is not None and layer.add_to(self._plan, place.longest) for layer in self.layers)
            self._is_planned = all(added)
        if self._is_planned and self._plan is not None:
            return self._plan.next(x_BE, place.positions_B, place.waves_BF)
        streams = [x_BE, x_BE]
        for index, layer in enumerate(self.layers):
            to, read = index % 2, 1 - index % 2
            streams[to] = streams[to] + layer.next(streams[read], place)
        return streams[0], streams[1]

    def _read_first(self, tokens_BT: Tensor, only_last: bool) -> Tensor:
        B, T = tokens_BT.shape
        streams = [self.model.embed(tokens_BT, torch.arange(T, device=tokens_BT.device)[None])] * 2
        for index, layer in enumerate(self.layers):
            to, read = index % 2, 1 - index % 2
            streams[to] = streams[to] + layer.read(streams[read])
        self.lengths, self._plan = [T] * B, None
        start = T - 1 if only_last else 0
        logits_BTV: Tensor = self.model.output(*(stream[:, start:] for stream in streams))
        return logits_BTV


def _decoding(layer: Layer, source: Source | None) -> DecodingAttention | DecodingCrossAttention | DecodingFeedForward:
    """A layer, ready to decode."""
    if isinstance(layer, CrossAttention):
        assert source is not None, "a layer that reads a source needs one"
        return DecodingCrossAttention(layer, source)
    if isinstance(layer, Attention):
        return DecodingAttention(layer)
    assert isinstance(layer, FeedForward)
    return DecodingFeedForward(layer)


def read_alone(model: ReformerLM) -> Read:
    """Read in this process."""

    def read(prompt_T: Tensor) -> tuple[Decoder, Tensor]:
        decoder = Decoder(model)
        return decoder, decoder.read(prompt_T[None], only_last=True)[:, 0]

    return read
