"""What models of tokens have in common: their configuration, a vector for each token, first weights, other settings.

Legend: B batch, T tokens of this shard, E model dimension.
"""

import math
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from reformer_dist.config import ModelConfig
from reformer_dist.model.budget import Budget
from reformer_dist.model.context import Context
from reformer_dist.model.layers.convolution import WEIGHT
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


class TokenModel(nn.Module):
    """Embeddings, a reversible stack that writes, and an output layer; a subclass makes the stack and runs it."""

    tokenizer: Any
    """What made the tokens; a model has it that `load_model` has read from a checkpoint."""
    stack: ReversibleStack
    """The layers that the output layer reads."""

    def __init__(self, config: ModelConfig, budget: Budget | None = None) -> None:
        """Make the embeddings; the subclass makes the rest by `_make_stack`, and weights are drawn from `config.seed`.

        Args:
            config: what the model is.
            budget: how much exists at a time, chunks of feed-forward and loss included; by default `Budget.of(config)`.

        """
        super().__init__()
        self.config = config
        self.budget = budget or Budget.of(config)
        self.embedding = TokenEmbedding(config.vocab_size, config.embed_dim)
        self.positions = make_positions(config)
        self._make_stack()
        self.output = OutputLayer(config, self.embedding.weight if config.tie_embeddings else None, self.budget)
        self._draw_weights()

    def _make_stack(self) -> None:
        """Set `stack`, and what else the subclass is made of."""
        raise NotImplementedError

    def with_settings(self, **changes: Any) -> Self:
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
        if bool(config.encoder_layers) != bool(self.config.encoder_layers):
            raise ValueError(f"{changes} adds or takes off an encoder; num_hashes, num_buckets and lsh_window do not")
        other = type(self)(config, self.budget if has_same_chunks else None)
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

    def _summed_loss(self, x_BTE: Tensor, context: Context, labels_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Summed loss and number of scored tokens, of the streams at the first layer, which both are `x_BTE`."""
        num_tokens = (labels_BT != IGNORED).sum()
        if self.config.tie_embeddings:  # a tied weight's gradient must arrive once, from both ends of one backward pass
            return self.output(*self.stack(x_BTE, x_BTE, context), labels_BT), num_tokens
        return self.stack.reduce(x_BTE, x_BTE, context, partial(self.output, labels_BT=labels_BT)), num_tokens

    @torch.no_grad()
    def _draw_weights(self) -> None:
        """Normal weights: matrices of standard deviation 1 / sqrt(inputs), but for those that write into a stream."""
        config = self.config
        embedding_std = config.embedding_std or (0.02 if config.tie_embeddings else 1.0)
        generator = torch.Generator().manual_seed(config.seed)
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                continue
            is_of_encoder, own = name.startswith("encoder."), name.removeprefix("encoder.")
            std = 1.0 if own.startswith(("embedding", "positions")) else parameter.shape[1] ** -0.5
            scales = {"embedding.": embedding_std, "positions.": 0.02, "output.": config.output_scale}
            std *= next((scale for start, scale in scales.items() if own.startswith(start)), 1.0)
            if own.startswith("stack.") and name.endswith(".output_weight"):
                layers = config.encoder_layers if is_of_encoder else config.layers
                std *= config.output_scale / math.sqrt(2 * len(layers))
            if name.endswith(WEIGHT):
                std = 0.1  # of what is added to a stream of 1
            parameter.normal_(std=std, generator=generator)


def check_labels(labels_BT: Tensor, tokens_BT: Tensor) -> None:
    """Raise ValueError for labels of another shape than their tokens."""
    if labels_BT.shape != tokens_BT.shape:
        raise ValueError(f"labels {tuple(labels_BT.shape)} must have the shape of tokens, {tuple(tokens_BT.shape)}")


def checked_positions(
    tokens_BT: Tensor, positions_BT: Tensor | None, first_position: int, most: int, setting: str
) -> Tensor:
    """Positions of tokens, by default from the first one on.

    Raises:
        ValueError: tokens of another shape or dtype, or longer than `most`, which `setting` says.

    """
    if tokens_BT.dim() != 2 or tokens_BT.dtype != torch.int64 or tokens_BT.numel() == 0:
        raise ValueError(f"tokens {tuple(tokens_BT.shape)} {tokens_BT.dtype} must be [B, T] int64, not empty")
    if positions_BT is not None:
        return positions_BT
    last = first_position + tokens_BT.shape[1]
    if last > most:
        raise ValueError(f"tokens up to position {last} are more than {setting} = {most}")
    return torch.arange(first_position, last, device=tokens_BT.device)[None]


def drop_embeddings(x_BTE: Tensor, config: ModelConfig, context: Context, training: bool) -> Tensor:
    """Embeddings with dropout, in training."""
    if not training or config.hidden_dropout == 0:
        return x_BTE
    key = make_key(config.seed, context.step, 0, Use.EMBEDDING)
    return dropout(x_BTE, config.hidden_dropout, key, context.first_row, context.first_position)
