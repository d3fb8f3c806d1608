"""The Reformer encoder-decoder on one device: a source is read from both sides, a target written from left to right.

In: a source [B, S] and a target [B, T], whole sequences or one shard of each. Out: logits [B, T, V], or the summed loss and
the token count.

The form is trax's (trax/models/reformer/reformer.py): both stacks are reversible, the encoder's memory is its two streams'
mean under a norm, and each block of the decoder has self-attention, cross-attention and a feed-forward layer.

Legend: B batch, T tokens of this shard, S tokens of this shard of the source, E model dimension, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from reformer_dist.config import ModelConfig
from reformer_dist.model.attention.cross.layer import CrossAttention
from reformer_dist.model.attention.layer import Attention
from reformer_dist.model.budget import Budget
from reformer_dist.model.context import Context, Source
from reformer_dist.model.layers.feed_forward import FeedForward
from reformer_dist.model.layers.norm import norm_parameters, normalise
from reformer_dist.model.layers.positions import make_positions
from reformer_dist.model.reversible.recomputation import map_tokens
from reformer_dist.model.reversible.stack import ReversibleStack
from reformer_dist.model.token_model import TokenModel, check_labels, checked_positions, drop_embeddings


@dataclass(frozen=True)
class SourceTokens:
    """What an encoder reads."""

    tokens_BS: Tensor
    """int64, 0 in padding."""
    positions_BS: Tensor | None = None
    """Index of each token in its document, int64; None for first_position, first_position + 1, ..."""
    documents_BS: Tensor | None = None
    """Document of each token, int64, -1 for padding; of a target's token the same. None: all is one document."""
    first_position: int = 0
    """Index in the whole source of this shard's first token."""


class MemoryNorm(nn.Module):
    """The encoder's end: the mean of two streams, normalised."""

    def __init__(self, config: ModelConfig, budget: Budget) -> None:
        super().__init__()
        self.config, self.budget = config, budget
        for name, parameter in norm_parameters(config, config.embed_dim).items():
            self.register_parameter(name, parameter)
        self._names = [name for name, _ in self.named_parameters()]

    def forward(self, first_BSE: Tensor, second_BSE: Tensor) -> Tensor:
        """The memory [B, S, E]."""
        parameters = list(self.parameters())
        return map_tokens(self._piece, self.budget.projected_tokens, [first_BSE, second_BSE], parameters)

    def _piece(self, start: int, inputs: Sequence[Tensor], parameters: Sequence[Tensor]) -> Tensor:
        own = dict(zip(self._names, parameters, strict=True))
        return normalise((inputs[0] + inputs[1]) / 2, own, self.config)


class Encoder(nn.Module):
    """Positions, a reversible stack that sees both sides, and the norm of its memory. Token vectors are the model's."""

    def __init__(self, config: ModelConfig, budget: Budget) -> None:
        """Make an encoder of `ModelConfig.encoder`."""
        super().__init__()
        self.config, self.budget = config, budget
        self.positions = make_positions(config)
        blocks = (
            {"attention": Attention(config, i, budget), "feed_forward": FeedForward(config, i, budget)}
            for i in range(len(config.layers))
        )
        self.stack = ReversibleStack(blocks, config.reversible)
        self.norm = MemoryNorm(config, budget)

    def forward(self, x_BSE: Tensor, positions_BS: Tensor, context: Context) -> Tensor:
        """The memory [B, S, E] of a source's token vectors."""
        if self.positions is not None:
            x_BSE = x_BSE + self.positions(positions_BS)
        x_BSE = drop_embeddings(x_BSE, self.config, context, self.training)
        memory_BSE: Tensor = self.norm(*self.stack(x_BSE, x_BSE, context))
        return memory_BSE


class EncoderDecoder(TokenModel):
    """An encoder, and a decoder whose every block asks it."""

    def __init__(self, config: ModelConfig, budget: Budget | None = None) -> None:
        """Make the model with weights drawn from `config.seed`; see `TokenModel`.

        Raises:
            ValueError: `config.encoder_layers` are none.

        """
        if not config.encoder_layers:
            raise ValueError("model.encoder_layers are none; local,lsh works")
        super().__init__(config, budget)

    def _make_stack(self) -> None:
        config, budget = self.config, self.budget
        self.encoder = Encoder(config.encoder, budget)
        blocks = (
            {
                "attention": Attention(config, i, budget),
                "cross_attention": CrossAttention(config, i, budget),
                "feed_forward": FeedForward(config, i, budget),
            }
            for i in range(len(config.layers))
        )
        self.stack = ReversibleStack(blocks, config.reversible)

    def forward(
        self,
        source: Tensor | SourceTokens,
        tokens: Tensor,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        *,
        step: int = 0,
        first_row: int = 0,
        first_position: int = 0,
    ) -> Tensor:
        """Logits of the target's next token after each.

        Args:
            source: [B, S] int64, or with positions and documents.
            tokens: the target, [B, T] int64.
            positions: [B, T] int64 indices in their documents; by default first_position, first_position + 1, ...
            documents: [B, T] int64, tokens see only their own document, of the source too; -1 is padding.
            step: training step, for dropout and hash rotations; evaluation always hashes as step 0.
            first_row: index in the step's global batch of row 0, for dropout.
            first_position: index in the whole target of token 0.

        Returns:
            [B, T, V], float32 (float64 for a float64 model).

        Raises:
            ValueError: tokens of another shape or dtype, or longer than max_length or max_source_length.

        """
        context = Context(documents, step, first_row, first_position, positions_BT=positions)
        x_BTE, context = self._begin(source, tokens, context)
        return self.output(*self.stack(x_BTE, x_BTE, context))

    def loss(
        self,
        source: Tensor | SourceTokens,
        tokens: Tensor,
        labels: Tensor,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        *,
        step: int = 0,
        first_row: int = 0,
        first_position: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """Summed cross entropy in nats and the number of scored tokens, both scalars; divide once, by the global count.

        Args:
            labels: [B, T] int64, already shifted; -100 is not scored.
            source: and the others as in `forward`.
            tokens: see `forward`.
            positions: see `forward`.
            documents: see `forward`.
            step: see `forward`.
            first_row: see `forward`.
            first_position: see `forward`.

        """
        check_labels(labels, tokens)
        context = Context(documents, step, first_row, first_position, positions_BT=positions)
        return self._summed_loss(*self._begin(source, tokens, context), labels)

    @torch.no_grad()
    def encode(self, source: Tensor | SourceTokens) -> Source:
        """What a decoder reads of a source, without gradients and dropout, as decoding needs it once."""
        was_training = self.training
        self.eval()
        source, positions_BS = self._checked(source)
        memory = self._memory(source, positions_BS, self.embedding(source.tokens_BS), Context())
        self.train(was_training)
        return memory

    def _begin(self, source: Tensor | SourceTokens, tokens_BT: Tensor, context: Context) -> tuple[Tensor, Context]:
        """Both streams of the decoder at its first layer, and its place with the encoder's memory."""
        config = self.config
        source, positions_BS = self._checked(source)
        given, first = context.positions_BT, context.first_position
        positions_BT = checked_positions(tokens_BT, given, first, config.max_length, "max_length")
        S = source.tokens_BS.shape[1]
        # One call for both, as ZeRO-3 gathers a module's weights for each call and its gradient arrives once.
        vectors = self.embedding(torch.cat([source.tokens_BS, tokens_BT], dim=1))
        memory = self._memory(source, positions_BS, vectors[:, :S], context)
        x_BTE = vectors[:, S:]
        if self.positions is not None:
            x_BTE = x_BTE + self.positions(positions_BT)
        return drop_embeddings(x_BTE, config, context, self.training), replace(context, source=memory)

    def _memory(self, source: SourceTokens, positions_BS: Tensor, vectors_BSE: Tensor, context: Context) -> Source:
        here = Context(source.documents_BS, context.step, context.first_row, source.first_position)
        memory_BSE = self.encoder(vectors_BSE, positions_BS, here)
        return Source(memory_BSE, source.documents_BS, source.positions_BS, source.first_position)

    def _checked(self, source: Tensor | SourceTokens) -> tuple[SourceTokens, Tensor]:
        """A source and its positions."""
        if isinstance(source, Tensor):
            source = SourceTokens(source)
        given, first = source.positions_BS, source.first_position
        most = self.encoder.config.max_length
        return source, checked_positions(source.tokens_BS, given, first, most, "max_source_length")
