"""What a kind of cross-attention declares: queries of a target attend the keys of a source.

In: queries of a piece of the target; keys and values of the whole source. Out: results for the queries. Scores are
q . k / sqrt(D) in every kind, so that they differ only in which keys a query sees.

Legend: B batch, T tokens of a piece of the target, S tokens of the source, H heads, D head dimension.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reformer_dist.config import ModelConfig
from reformer_dist.model.budget import Budget
from reformer_dist.model.context import Context
from reformer_dist.model.randomness import Use, make_key, pair_keep, scramble, token_hash


@dataclass(frozen=True)
class SourceHeads:
    """Some heads' keys and values of a whole source."""

    k_BSHD: Tensor
    """Keys."""
    v_BSHD: Tensor
    """Values."""
    documents_BS: Tensor | None = None
    """Document of each token, -1 for padding; a query sees its own document alone. None: all is one."""
    positions_BS: Tensor | None = None
    """Index of each token in its document; None for 0, 1, ..."""


class CrossKind(ABC):
    """Cross-attention of some heads, by the model's configuration. It holds no parameters."""

    def __init__(self, config: ModelConfig, layer: int, budget: Budget) -> None:
        self.config, self.layer, self.budget = config, layer, budget

    @abstractmethod
    def tokens_at_a_time(self, heads: SourceHeads) -> int:
        """Queries of a row that may be attended at a time."""

    def index(self, heads: SourceHeads, context: Context, training: bool) -> Any:
        """What is known of the keys before there are queries; without gradients. None where there is nothing."""
        return None

    def find(self, q_BTHD: Tensor, context: Context, training: bool) -> Any:
        """What is found of queries, to be used again when they are rebuilt; without gradients. None where it is nothing."""
        return None

    @abstractmethod
    def attend(
        self, q_BTHD: Tensor, heads: SourceHeads, index: Any, found: Any, context: Context, training: bool
    ) -> Tensor:
        """Attend; differentiable in queries, keys and values.

        Args:
            q_BTHD: queries of a piece of the target.
            heads: the source.
            index: of its keys.
            found: of these queries.
            context: place of the queries and of the heads.
            training: whether dropout is on and rotations are those of the step.

        Returns:
            [B, T, H, D]; zeros for a query that sees no key.

        """

    def kept(
        self, q_BTHD: Tensor, num_keys: int, keys_BHTK: Tensor | None, context: Context, training: bool
    ) -> Tensor | None:
        """Multipliers of attention weights by dropout, keyed by head and the positions of query and key; None for none.

        Args:
            q_BTHD: the queries.
            num_keys: tokens S of the source.
            keys_BHTK: which keys, [B, H, T, K]; None for all, K = S.
            context: place of the queries and of the heads.
            training: whether dropout is on.

        """
        config = self.config
        if not training or config.attention_dropout == 0:
            return None
        (B, T, H, _), device = q_BTHD.shape, q_BTHD.device
        queries, keys = (
            make_key(config.seed, context.step, self.layer, use) for use in (Use.CROSS_WEIGHTS, Use.CROSS_KEYS)
        )
        queries_BT = token_hash(queries, context.first_row, context.first_position, (B, T), device)
        keys_BS = token_hash(keys, context.first_row, 0, (B, num_keys), device)
        heads_H1 = torch.arange(context.first_head, context.first_head + H, device=device)[:, None]
        queries_BHT, keys_BHS = (scramble(hashes[:, None] + heads_H1) for hashes in (queries_BT, keys_BS))
        met_BHTK = keys_BHS[:, :, None]
        if keys_BHTK is not None:
            met_BHTK = keys_BHS.gather(2, keys_BHTK.flatten(2)).view_as(keys_BHTK)
        return pair_keep(queries_BHT[..., None], met_BHTK, config.attention_dropout, q_BTHD.dtype)
