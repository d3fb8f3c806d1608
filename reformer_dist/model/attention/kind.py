"""What an attention kind declares. Local, LSH and full attention are the subclasses, see kinds.py.

In: a layer's projections of some heads. Out: their results. A kind reads the configuration. It holds no parameters and knows
nothing of the layer around it.

Legend: B batch, T tokens, H heads, D head dimension.
"""

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from reformer_dist.config import ModelConfig
from reformer_dist.model.attention.exchange import Exchange
from reformer_dist.model.attention.memory import Memory
from reformer_dist.model.attention.rotary import turn
from reformer_dist.model.backends.backend import Backend
from reformer_dist.model.backends.description import AttentionDropout
from reformer_dist.model.budget import Budget
from reformer_dist.model.context import Context
from reformer_dist.model.keeping import Kept
from reformer_dist.model.randomness import Use, make_key


class Kind(ABC):
    """Attention of some heads, by the model's configuration."""

    projections: ClassVar[tuple[str, ...]] = ("query", "key", "value")
    """Names of what is projected, in the order in which `attend` takes it."""

    def __init__(self, config: ModelConfig, layer: int, budget: Budget) -> None:
        self.config, self.layer, self.budget = config, layer, budget

    @property
    def is_turned(self) -> bool:
        """Whether queries and keys are turned by their positions."""
        return self.config.is_rotary

    @property
    def brings_next(self) -> bool:
        """Whether a key brings the value of the token after it: `attend` then takes as a token's value the next one's."""
        return False

    @property
    @abstractmethod
    def exchanges(self) -> frozenset[str]:
        """By which exchanges it works on shards, in the configured mode: "heads", "buckets", "neighbours"."""

    @property
    def needs_whole(self) -> bool:
        """Whether some worker must hold whole sequences, if only for some heads."""
        return self.exchanges == {"heads"}

    @property
    def reach(self) -> tuple[int, int] | None:
        """Tokens before and after its own that a token sees, if its result depends on them alone; else None.

        With a reach a layer is worked through by pieces of tokens, else by head groups.
        """
        return None

    @property
    def shortest_piece(self) -> int:
        """Tokens that a piece should have, so that those around it, which are projected once more, are few beside it."""
        return 1

    @abstractmethod
    def attend(
        self,
        tensors: tuple[Tensor, ...],
        context: Context,
        found: Any,
        training: bool,
        exchange: Exchange,
        kept: Kept | None = None,
    ) -> tuple[Tensor, Any]:
        """Attend.

        Args:
            tensors: `projections` of some heads, each [B, T, H, D].
            context: place of the tokens and heads.
            found: what an earlier call with the same tensors found (LSH: buckets), to be used again; None in the first.
            training: whether dropout is on and rotations are those of the step.
            exchange: how the shards meet.
            kept: where results are kept from the forward to the backward pass; None where none are.

        Returns:
            [B, T, H, D], and what was found (None where there is nothing to find).

        """

    @abstractmethod
    def make_memory(self, heads: slice, like: Tensor, backend: Backend) -> Memory:
        """An empty memory for decoding with these heads of the model.

        Args:
            heads: which of the model.
            like: has the device and dtype of the vectors.
            backend: computes one token more.


        Raises:
            ValueError: what a token sees depends on later ones in the configured mode.

        """

    def explain(self, device: torch.device, dtype: torch.dtype) -> str:
        """What computes it in training with vectors of this device and dtype, in words."""
        return "torch code of its own"

    def turned(self, x_BTHD: Tensor, first_position: int) -> Tensor:
        """Queries or keys turned by their positions, of which the first is given; as they are where that is not asked."""
        if not self.is_turned:
            return x_BTHD
        return turn(x_BTHD, first_position, self.config.rotary_base, self.budget.turned_tokens)

    @property
    def dropout_probability(self) -> float:
        """Of an attention weight, in training."""
        return self.config.attention_dropout

    def dropout(self, context: Context, training: bool) -> AttentionDropout | None:
        """Dropout of attention weights in this step; None for none."""
        if not training or self.dropout_probability == 0:
            return None
        key = make_key(self.config.seed, context.step, self.layer, Use.ATTENTION_WEIGHTS)
        return AttentionDropout(self.dropout_probability, key)

    def padded_length(self, length: int) -> int:
        """Length to which chunked attention pads: past the shortest chunk a multiple of every kind's, as in Hugging Face."""
        config, chunks = self.config, []
        if "lsh" in config.layers and config.lsh_mode == "chunked":
            chunks.append(config.lsh_window)
        if "local" in config.layers and config.local_mode == "chunked":
            chunks.append(config.local_window)
        multiple = math.lcm(*chunks)
        return length if length <= min(chunks, default=length) else math.ceil(length / multiple) * multiple
