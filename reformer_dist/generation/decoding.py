"""Token-by-token decoding with memories, equal to running the whole sequence at once.

In: a causal model and a prompt. Out: the next token's logits, again and again. A token costs the same whatever came before:
an LSH layer looks at the last W keys of its bucket in every round, a local layer at the last W tokens. (A full layer looks
at everything.)

What a layer remembers is made by its attention kinds (model/attention/memory.py, lsh/memory.py).

Legend: B batch, T tokens, V vocabulary.
"""

import torch
from torch import Tensor

from reformer_dist.model.context import Context
from reformer_dist.model.layers.convolution import RecentTokens
from reformer_dist.model.reformer import ReformerLM


class Decoder:
    """A causal model with what it must remember of the tokens so far.

    In exact arithmetic its logits are `model(tokens)`'s. In float32 a token that lies almost between two buckets can hash
    differently on the two paths, since their sums round differently.
    """

    def __init__(self, model: ReformerLM) -> None:
        """Start with nothing read; uses the model in evaluation, whatever its mode.

        Raises:
            ValueError: the model is not causal, or its attention looks at the future's hashes.

        """
        config = model.config
        if not config.causal:
            raise ValueError("model.causal = False cannot be decoded token by token; True works")
        self.model = model
        self.length = 0
        self._memories = [(block.attention.make_memory(), RecentTokens(model.config)) for block in model.stack.blocks]

    @torch.no_grad()
    def read(self, tokens_BT: Tensor, only_last: bool = False) -> Tensor:
        """Take in tokens [B, T] int64; returns the logits after each [B, T, V], or after the last alone [B, 1, V].

        Raises:
            ValueError: more tokens than max_length.

        """
        model, T = self.model, tokens_BT.shape[1]
        if self.length + T > model.config.max_length:
            raise ValueError(f"{self.length + T} tokens are more than model.max_length = {model.config.max_length}")
        was_training = model.training
        model.eval()
        positions_T = torch.arange(self.length, self.length + T, device=tokens_BT.device)
        first = second = model.embed(tokens_BT, positions_T[None])
        context = Context(first_position=self.length)
        for block, (of_attention, of_feed_forward) in zip(model.stack.blocks, self._memories, strict=True):
            first = first + block.attention.decode(second, context, of_attention)
            second = second + block.feed_forward.decode(first, context, of_feed_forward)
        self.length += T
        model.train(was_training)
        start = T - 1 if only_last else 0
        return model.output(first[:, start:], second[:, start:])
