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

from reformer_dist.model.attention.decoding import DecodingAttention
from reformer_dist.model.attention.memory import Place
from reformer_dist.model.attention.rotary import waves
from reformer_dist.model.layers.decoding import DecodingFeedForward, DecodingOutput
from reformer_dist.model.reformer import ReformerLM

Read = Callable[[Tensor], tuple["Decoder", Tensor]]
"""A prompt [T] in, a decoder of one row that has read it and the logits [1, V] after it out."""


class Decoder:
    """A causal model with what it must remember of the tokens so far, of a batch of rows.

    In exact arithmetic its logits are `model(tokens)`'s. In float32 a token that lies almost between two buckets can hash
    differently on the two paths, since their sums round differently. By the compiled operators the logits of one token
    more depend, to the last bit, neither on the batch's other rows nor on the number of threads.
    """

    def __init__(self, model: ReformerLM) -> None:
        """Start with nothing read; uses the model in evaluation, whatever its mode.

        Raises:
            ValueError: the model is not causal, or its attention looks at the future's hashes.

        """
        if not model.config.causal:
            raise ValueError("model.causal = False cannot be decoded token by token; True works")
        self.model = model
        self.lengths: list[int] = []
        """Tokens that each row has read."""
        self.blocks = [
            (DecodingAttention(block.attention), DecodingFeedForward(block.feed_forward))
            for block in model.stack.blocks
        ]
        """Each block's layers with what they remember."""
        self._output = DecodingOutput(model.output)

    @torch.no_grad()
    def begin(self, num_rows: int) -> None:
        """Begin with rows that have read nothing, to go on by `next` alone."""
        nothing_B0E = self.model.embedding.weight.new_empty(num_rows, 0, self.model.config.embed_dim)
        for attention, feed_forward in self.blocks:
            attention.begin(nothing_B0E)
            feed_forward.begin(nothing_B0E)
        self.lengths = [0] * num_rows

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
        first = second = self.model.embed(tokens_B[:, None], positions_B[:, None])[:, 0]
        for attention, feed_forward in self.blocks:
            first = first + attention.next(second, place)
            second = second + feed_forward.next(first)
        self.lengths = [length + 1 for length in self.lengths]
        return self._output.next(first, second)

    def probabilities(self, logits_BV: Tensor) -> Tensor:
        """Of the next token, from its logits; by the compiled operators the same to the last bit, as those are."""
        return self._output.probabilities(logits_BV)

    def extend(self, others: Sequence["Decoder"]) -> None:
        """Add the rows of other decoders of the same model behind this one's; they are not to be used any more."""
        for index, (attention, feed_forward) in enumerate(self.blocks):
            attention.extend([other.blocks[index][0] for other in others])
            feed_forward.extend([other.blocks[index][1] for other in others])
        self.lengths += [length for other in others for length in other.lengths]

    @property
    def num_bytes(self) -> int:
        """What is remembered of keys, values and buckets."""
        return sum(attention.num_bytes for attention, _ in self.blocks)

    def _read_first(self, tokens_BT: Tensor, only_last: bool) -> Tensor:
        B, T = tokens_BT.shape
        first = second = self.model.embed(tokens_BT, torch.arange(T, device=tokens_BT.device)[None])
        for attention, feed_forward in self.blocks:
            first = first + attention.read(second)
            second = second + feed_forward.read(first)
        self.lengths = [T] * B
        start = T - 1 if only_last else 0
        return self.model.output(first[:, start:], second[:, start:])


def read_alone(model: ReformerLM) -> Read:
    """Read in this process."""

    def read(prompt_T: Tensor) -> tuple[Decoder, Tensor]:
        decoder = Decoder(model)
        return decoder, decoder.read(prompt_T[None], only_last=True)[:, 0]

    return read
