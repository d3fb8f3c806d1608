"""Today's usual transformer, written small: what the Reformers are compared with.

In: tokens [B, T]. Out: logits [B, T, V], or the summed loss and the token count, as from `ReformerLM`.

A decoder with one residual stream, RMSNorm before each layer, queries and keys at unit scale with rotary positions and a
learned temperature a head, exact attention by torch's scaled_dot_product_attention, and squared ReLU. It is not reversible:
autograd keeps all activations.

Legend: B batch, T tokens, H heads, D head dimension, E model dimension, V vocabulary.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import linear, rms_norm

from reformer_dist.config import ModelConfig
from reformer_dist.model.layers.output import IGNORED

ROTARY_BASE = 10_000.0
TEMPERATURE = 2.0
"""Scores at first are within so many times sqrt(D); with 1 no token could stand out among thousands."""


class Transformer(nn.Module):
    """Embedding, layers and an output layer with weights of its own."""

    angles_TD: Tensor

    def __init__(self, config: ModelConfig) -> None:
        """Make the model with weights drawn from `config.seed`.

        Args:
            config: vocab_size, embed_dim, num_heads, feed_forward_dim, the number of layers, max_length, hidden_dropout
                and seed are read, and nothing else.
        """
        super().__init__()
        E, width = config.embed_dim, config.num_heads * config.head_width
        self.embedding = nn.Parameter(torch.empty(config.vocab_size, E))
        self.stack = nn.ModuleList(
            Block(E, width, config.feed_forward_dim, config.num_heads, config.hidden_dropout) for _ in config.layers
        )
        self.output = nn.Parameter(torch.empty(config.vocab_size, E))
        self.register_buffer("angles_TD", angles(config.max_length, config.head_width), persistent=False)
        self._draw_weights(config.seed)

    def forward(self, tokens: Tensor, *, step: int = 0) -> Tensor:
        """Logits [B, T, V] of the next token; `step` says nothing here, since torch draws what is dropped."""
        x = normed(functional.embedding(tokens, self.embedding))
        for layer in self.stack:
            x = layer(x, self.angles_TD[: tokens.shape[1]])
        return linear(normed(x), self.output)

    def loss(self, tokens: Tensor, labels: Tensor, *, step: int = 0) -> tuple[Tensor, Tensor]:
        """Summed cross entropy in nats and the number of tokens; labels [B, T] are shifted already, IGNORED is no label."""
        logits = self(tokens, step=step)
        loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
        return loss, (labels != IGNORED).sum()

    @torch.no_grad()
    def _draw_weights(self, seed: int) -> None:
        """Normal weights of 1 / sqrt(inputs), embeddings of 1; what ends in the stream or in logits starts at zero."""
        generator = torch.Generator().manual_seed(seed)
        for name, weight in self.named_parameters():
            if "output" in name:
                weight.zero_()
            elif weight.dim() == 2:
                weight.normal_(std=1.0 if name == "embedding" else weight.shape[1] ** -0.5, generator=generator)


class Block(nn.Module):
    """Attention and a feed-forward layer, each added to the stream."""

    def __init__(self, embed_dim: int, width: int, inner: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.query = nn.Parameter(torch.empty(width, embed_dim))
        self.key = nn.Parameter(torch.empty(width, embed_dim))
        self.value = nn.Parameter(torch.empty(width, embed_dim))
        self.attention_output = nn.Parameter(torch.empty(embed_dim, width))
        self.temperature = nn.Parameter(torch.full((num_heads,), TEMPERATURE))
        self.inner = nn.Parameter(torch.empty(inner, embed_dim))
        self.feed_forward_output = nn.Parameter(torch.empty(embed_dim, inner))

    def forward(self, x: Tensor, angles_TD: Tensor) -> Tensor:
        """The stream [B, T, E] after both layers."""
        y = normed(x)
        q, k, v = (
            linear(y, weight).unflatten(-1, (len(self.temperature), -1)).transpose(1, 2)  # [B, H, T, D]
            for weight in (self.query, self.key, self.value)
        )
        q, k = self.temperature[:, None, None] * rotated(normed(q), angles_TD), rotated(normed(k), angles_TD)
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.dropout(linear(attended.transpose(1, 2).flatten(2), self.attention_output))
        inner = functional.relu(linear(normed(x), self.inner)).square()
        return x + self.dropout(linear(inner, self.feed_forward_output))


def normed(x: Tensor) -> Tensor:
    """Vectors of the last dimension with a mean square of 1; nothing is learned."""
    return rms_norm(x, x.shape[-1:])


def angles(length: int, width: int) -> Tensor:
    """Angles [T, D / 2] by which position turns each pair of features (Su et al. 2021)."""
    frequencies = ROTARY_BASE ** -(torch.arange(0, width, 2, dtype=torch.float32) / width)
    return torch.arange(length, dtype=torch.float32)[:, None] * frequencies


def rotated(x: Tensor, angles_TD: Tensor) -> Tensor:
    """Vectors [B, H, T, D] whose pairs (i, i + D / 2) are turned by their positions' angles."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = angles_TD.cos(), angles_TD.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
