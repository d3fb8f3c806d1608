"""LSH attention as an attention kind, see `Kind`: hashing, and showing an observer what was hashed.

Tokens share a bucket for what they are, however far apart: with `lsh_rotary` it is the vectors before they are turned that
are hashed, and how far counts in their scores.

With `lsh_values: next` a key brings the value of the token after it: what followed where the same stood before.

Legend: B batch, T tokens, H heads, D head dimension, R hash rounds, F half the sum of the bucket factors.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reformer_dist.config import ModelConfig
from reformer_dist.model.attention.exchange import Exchange, NoExchange
from reformer_dist.model.attention.kind import Kind
from reformer_dist.model.attention.lsh.call import LSHCall
from reformer_dist.model.attention.lsh.hashing import draw_rotations, hash_buckets
from reformer_dist.model.attention.lsh.memory import BucketMemory
from reformer_dist.model.backends.backend import Backend, Work
from reformer_dist.model.backends.choice import explain
from reformer_dist.model.budget import Budget
from reformer_dist.model.context import Context
from reformer_dist.model.keeping import Kept
from reformer_dist.model.randomness import Use, make_key


@dataclass(frozen=True)
class Hashed:
    """What an LSH kind shows its observer after hashing."""

    qk_BTHD: Tensor
    """Queries-keys of this shard, as they were hashed."""
    turned_BTHD: Tensor
    """The same as they are attended, turned by their positions if that is asked."""
    buckets_BHRT: Tensor
    """Their buckets."""
    rotations: Tensor
    """The rotations that led there, [D, R, F] or [H, D, R, F]."""
    context: Context
    """Place of the tokens and heads."""
    gather: Callable[[Tensor], Tensor]
    """All shards' tensors of a shape in order, [P, ...]; every worker must call it."""


class LSHKind(Kind):
    """LSH attention, with rotations drawn anew in every training step."""

    projections = ("query_key", "value")

    def __init__(self, config: ModelConfig, layer: int, budget: Budget) -> None:
        super().__init__(config, layer, budget)
        self.observer: Callable[[LSHKind, Hashed], None] | None = None
        """Is called after each hashing, if there is one; see hash_health.py."""

    @property
    def exchanges(self) -> frozenset[str]:
        """See `Kind`."""
        return frozenset({"heads", "buckets"} if self.config.lsh_mode == "window" else {"heads"})

    @property
    def is_turned(self) -> bool:
        """See `Kind`."""
        return self.config.is_lsh_rotary

    @property
    def brings_next(self) -> bool:
        """See `Kind`."""
        return self.config.lsh_brings_next

    def attend(
        self,
        tensors: tuple[Tensor, ...],
        context: Context,
        found: Any,
        training: bool,
        exchange: Exchange,
        kept: Kept | None = None,
    ) -> tuple[Tensor, Any]:
        """See `Kind`. What is found is the order of the tokens in all rounds, as the exchange keeps it (alone: buckets)."""
        unturned_BTHD, v_BTHD = tensors
        qk_BTHD = self.turned(unturned_BTHD, context.first_position)
        rotations = self._rotations_of_heads(qk_BTHD, context, training)
        dropout, length = self.dropout(context, training), self.padded_length(qk_BTHD.shape[1])
        call = LSHCall(qk_BTHD, v_BTHD, rotations, context, dropout, self.config, self.budget, length, kept)
        if found is None:
            buckets_BHRT = hash_buckets(unturned_BTHD, rotations, self.config.bucket_factors, budget=self.budget)
            if self.observer is not None:
                hashed = Hashed(unturned_BTHD, qk_BTHD, buckets_BHRT, rotations, context, exchange.gather)
                self.observer(self, hashed)
            found = exchange.find_order(call, buckets_BHRT)
        return exchange.attend_in_order(call, found), found

    def explain(self, device: torch.device, dtype: torch.dtype) -> str:
        """See `Kind`."""
        once, dropout = self.config.lsh_mode == "paper", self.dropout_probability > 0
        return explain(Work(device, dtype, self.config.head_width, once, dropout, self.config.attention_kernel))

    def make_memory(self, heads: slice, like: Tensor, backend: Backend) -> BucketMemory:
        """See `Kind`."""
        if self.config.lsh_mode != "window":
            raise ValueError(
                f"model.lsh_mode = {self.config.lsh_mode!r} cannot be decoded token by token, because its chunks depend on "
                "the hashes of later tokens; 'window' works, also on weights trained otherwise"
            )
        here = Context(first_head=heads.start)

        def attend(tensors: tuple[Tensor, ...], buckets_BHRT: Tensor) -> Tensor:
            return self.attend(tensors, here, buckets_BHRT, False, NoExchange())[0]

        rotations = self.rotations(0, like.dtype).to(like)
        rotations_HDRF = (rotations[heads] if rotations.dim() == 4 else rotations[None]).contiguous()
        return BucketMemory(self.config, rotations_HDRF, attend, self.turned, backend)

    def rotations(self, step: int, dtype: torch.dtype) -> Tensor:
        """The layer's rotations: [D, R, F] shared by the heads, or with `hash_seed` [H, D, R, F] for vectors of `dtype`."""
        config = self.config
        if config.hash_seed is None:
            return draw_rotations(
                make_key(config.seed, step, self.layer, Use.ROTATIONS),
                config.head_width,
                config.num_hashes,
                config.bucket_factors,
            )
        return draw_rotations(
            config.hash_seed,
            config.head_width,
            config.num_hashes,
            config.bucket_factors,
            config.num_heads,
            torch.promote_types(dtype, torch.float32),
        )

    def _rotations_of_heads(self, qk_BTHD: Tensor, context: Context, training: bool) -> Tensor:
        rotations = self.rotations(context.step if training else 0, qk_BTHD.dtype)
        if rotations.dim() == 4:
            rotations = rotations[context.first_head : context.first_head + qk_BTHD.shape[2]]
        return rotations
