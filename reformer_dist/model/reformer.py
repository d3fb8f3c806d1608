"""The Reformer language model on one device; it knows nothing of process groups.

In: tokens [B, T], a whole sequence or one shard of it. Out: logits [B, T, V], or the summed loss and the token count.

Legend: B batch, T tokens of this shard, E model dimension, V vocabulary.
"""

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from reformer_dist.config import ModelConfig
from reformer_dist.model.attention.layer import Attention
from reformer_dist.model.budget import Budget
from reformer_dist.model.context import Context
from reformer_dist.model.layers.convolution import WEIGHT
from reformer_dist.model.layers.feed_forward import FeedForward
from reformer_dist.model.layers.output import IGNORED, OutputLayer
from reformer_dist.model.layers.positions import make_positions
from reformer_dist.model.randomness import Use, dropout, make_key
from reformer_dist.model.reversible.stack import ReversibleStack


class TokenEmbedding(nn.Module):
    """One learned vector a token."""

    def __init__(self, vocab_size: int, embed_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, embed_dim))

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Vectors [B, T, E]."""
        return nn.functional.embedding(tokens_BT, self.weight)


class ReformerLM(nn.Module):
    """Embeddings, reversible blocks and an output layer (Kitaev, Kaiser and Levskaya 2020).

    Both streams start as the embeddings, and the output layer reads both, as in trax and Hugging Face.
    """

    tokenizer: Any
    """What made the tokens; a model has it that `load_model` has read from a checkpoint."""

    def __init__(self, config: ModelConfig, budget: Budget | None = None) -> None:
        """Make the model with weights drawn from `config.seed`.

        Args:
            config: what the model is.
            budget: how much exists at a time, chunks of feed-forward and loss included; by default `Budget.of(config)`.

        """
        super().__init__()
        self.config = config
        self.budget = budget or Budget.of(config)
        self.embedding = TokenEmbedding(config.vocab_size, config.embed_dim)
        self.positions = make_positions(config)
        layers = range(len(config.layers))
        blocks = (
            {"attention": Attention(config, i, self.budget), "feed_forward": FeedForward(config, i, self.budget)}
            for i in layers
        )
        self.stack = ReversibleStack(blocks, config.reversible)
        self.output = OutputLayer(config, self.embedding.weight if config.tie_embeddings else None, self.budget)
        self._draw_weights()

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        *,
        step: int = 0,
        first_row: int = 0,
        first_position: int = 0,
    ) -> Tensor:
        """Logits of the next token (causal) or of each token (not causal).

        Args:
            tokens: [B, T] int64.
            positions: [B, T] int64 indices of the position embedding; by default first_position, first_position + 1, ...
            documents: [B, T] int64, tokens see only their own document; -1 is padding. By default one document.
            step: training step, for dropout and hash rotations; evaluation always hashes as step 0.
            first_row: index in the step's global batch of row 0, for dropout.
            first_position: index in the whole sequence of token 0.

        Returns:
            [B, T, V], float32 (float64 for a float64 model).

        Raises:
            ValueError: tokens of another shape or dtype, or longer than max_length.

        """
        context = Context(documents, step, first_row, first_position)
        return self.output(*self._streams(tokens, positions, context))

    def loss(
        self,
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
            tokens: and the others as in `forward`.
            positions: see `forward`.
            documents: see `forward`.
            step: see `forward`.
            first_row: see `forward`.
            first_position: see `forward`.

        """
        context = Context(documents, step, first_row, first_position)
        if labels.shape != tokens.shape:
            raise ValueError(f"labels {tuple(labels.shape)} must have the shape of tokens, {tuple(tokens.shape)}")
        num_tokens = (labels != IGNORED).sum()
        if self.config.tie_embeddings:  # a tied weight's gradient must arrive once, from both ends of one backward pass
            return self.output(*self._streams(tokens, positions, context), labels), num_tokens
        x_BTE = self._embed(tokens, positions, context)
        return self.stack.reduce(x_BTE, x_BTE, context, partial(self.output, labels_BT=labels)), num_tokens

    def with_settings(self, **changes: Any) -> "ReformerLM":
        """This model's weights under other settings, for evaluation: `model.with_settings(num_hashes=8)`.

        Args:
            changes: ModelConfig fields that leave the weights' shapes as they are, such as num_hashes, num_buckets,
                lsh_mode or lsh_window.

        Raises:
            ValueError: settings that are wrong or need other weights.

        """
        # What is chosen by other fields stays as it was when the weights learned.
        config = ModelConfig(**{**self.config.model_dump(), **self.config.chosen, **changes})
        has_same_chunks = Budget.of(config) == Budget.of(self.config)
        other = ReformerLM(config, self.budget if has_same_chunks else None)
        ours = {name: x.shape for name, x in self.state_dict().items()}
        theirs = {name: x.shape for name, x in other.state_dict().items()}
        if ours != theirs:
            raise ValueError(f"{changes} needs weights of other shapes; num_hashes, num_buckets and lsh_window do not")
        other.load_state_dict(self.state_dict(), assign=True)
        return other.train(self.training)

    def embed(self, tokens_BT: Tensor, positions_BT: Tensor) -> Tensor:
        """Both streams at the first layer [B, T, E], without dropout."""
        x_BTE: Tensor = self.embedding(tokens_BT)
        return x_BTE if self.positions is None else x_BTE + self.positions(positions_BT)

    def _streams(self, tokens_BT: Tensor, positions_BT: Tensor | None, context: Context) -> tuple[Tensor, Tensor]:
        x_BTE = self._embed(tokens_BT, positions_BT, context)
        return self.stack(x_BTE, x_BTE, context)

    def _embed(self, tokens_BT: Tensor, positions_BT: Tensor | None, context: Context) -> Tensor:
        if tokens_BT.dim() != 2 or tokens_BT.dtype != torch.int64 or tokens_BT.numel() == 0:
            raise ValueError(f"tokens {tuple(tokens_BT.shape)} {tokens_BT.dtype} must be [B, T] int64, not empty")
        T, device = tokens_BT.shape[1], tokens_BT.device
        if positions_BT is None:
            if context.first_position + T > self.config.max_length:
                raise ValueError(
                    f"tokens up to position {context.first_position + T} are more than max_length = {self.config.max_length}"
                )
            positions_BT = torch.arange(context.first_position, context.first_position + T, device=device)[None]
        x_BTE = self.embed(tokens_BT, positions_BT)
        if self.training and self.config.hidden_dropout > 0:
            key = make_key(self.config.seed, context.step, 0, Use.EMBEDDING)
            x_BTE = dropout(x_BTE, self.config.hidden_dropout, key, context.first_row, context.first_position)
        return x_BTE

    @torch.no_grad()
    def _draw_weights(self) -> None:
        """Normal weights: matrices of standard deviation 1 / sqrt(inputs), but for those that write into a stream."""
        config = self.config
        embedding_std = config.embedding_std or (0.02 if config.tie_embeddings else 1.0)
        into_streams = config.output_scale / math.sqrt(2 * len(config.layers))
        scales = {"embedding.": embedding_std, "positions.": 0.02, "output.": config.output_scale}
        generator = torch.Generator().manual_seed(config.seed)
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                continue
            std = 1.0 if name.startswith(("embedding", "positions")) else parameter.shape[1] ** -0.5
            std *= next((scale for start, scale in scales.items() if name.startswith(start)), 1.0)
            if name.startswith("stack.") and name.endswith(".output_weight"):
                std *= into_streams
            if name.endswith(WEIGHT):
                std = 0.1  # of what is added to a stream of 1
            parameter.normal_(std=std, generator=generator)
