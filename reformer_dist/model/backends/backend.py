"""The interface of a backend: the code that computes attention for some devices and dtypes.

A backend declares what it serves, attends in blocks of ordered tokens or rows, forward and backward, and may bring its own
code for hashing, for convolving and for moving rows; torch's code stands for what it does not bring. The file choice.py
knows all backends.

Legend: B batch, T tokens, H heads, D head dimension, R hash rounds, F half the sum of the bucket factors, M rows, X columns.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from reformer_dist.model.backends.description import (
    AttentionWeights,
    FeedForwardWeights,
    FiledTokens,
    OrderedRows,
    OrderedTokens,
    StreamNorm,
)
from reformer_dist.model.backends.plain import decoding
from reformer_dist.model.backends.plain.combination import RunningCombination
from reformer_dist.model.backends.plain.convolution import convolve_by_shifts, convolve_by_shifts_backward
from reformer_dist.model.backends.plain.hashing import hash_by_rotations
from reformer_dist.model.budget import Budget

KernelName = Literal["auto", "plain"]
"""`model.attention_kernel`: the fastest backend that serves, or the one that spells everything out."""


@dataclass(frozen=True)
class Work:
    """What a backend would have to serve."""

    device: torch.device
    dtype: torch.dtype
    head_dim: int
    """Width of a head."""
    once: bool = False
    """Whether a pair that meets in several rounds counts once: `paper` mode."""
    dropout: bool = False
    """Whether attention weights are dropped."""
    kernel: KernelName = "auto"
    """What the configuration asks for."""


class Combination(Protocol):
    """Results of hash rounds as they come back, combined for every row of a matrix."""

    def add_packed(self, rows: Tensor, packed: Tensor) -> None:
        """Add a round's outputs and log-sum-exps, as `attend_rows` packs them, of some rows; each row once a round."""

    def finish(self, own_MD: Tensor, own_keep_M: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """See `RunningCombination.finish`."""


class DecodingPlan(Protocol):
    """All layers for one token more, one after the other, in one call: what `Backend.next_projections` and on do by pieces.

    It holds the tensors that it was given, and puts what is to be remembered into them.
    """

    activations: frozenset[str]
    """Of feed-forward layers that it has code for."""
    room: int
    """Positions below this one have room in all that was given."""

    def add_attention_of_buckets(
        self,
        norm: StreamNorm,
        weights: AttentionWeights,
        hashing: tuple[Tensor, Sequence[int]],
        filed: FiledTokens,
        is_turned: bool,
    ) -> None:
        """A layer of LSH attention; `hashing` are the rotations [H or 1, D, R, F] and the bucket factors."""

    def add_attention_of_newest(
        self,
        norm: StreamNorm,
        weights: AttentionWeights,
        rows: Tensor,
        room: int,
        oldest: Callable[[Tensor], Tensor],
    ) -> None:
        """A layer of attention to the tokens from a position on; `rows` as `Backend.next_of_newest` takes them."""

    def add_feed_forward(self, norm: StreamNorm, weights: FeedForwardWeights) -> None:
        """A feed-forward layer."""

    def next(self, x_BE: Tensor, positions_B: Tensor, waves_BF: Tensor | None) -> tuple[Tensor, Tensor]:
        """Both streams [B, E] after the layers, of one that both begin with."""


class Backend(ABC):
    """Computes attention for the work that it does not refuse."""

    noun: str
    """How a sentence names it, "the compiled operators"."""
    device_type: str | None = None
    """The kind of device that it runs on, as torch names it; None for all."""
    dtypes: tuple[torch.dtype, ...] | None = None
    """Dtypes of vectors that it takes; None for all."""
    max_head_dim: int | None = None
    """The widest head that it takes; None for all."""
    serves_once: bool = True
    """Whether it can count a pair of several rounds once."""
    serves_dropout: bool = True
    """Whether it can drop attention weights."""

    def refusal(self, work: Work) -> str | None:
        """Why it does not serve the work, as a sentence; None if it does."""
        if self.device_type not in (None, work.device.type):
            unserved = f"a {work.device.type} device"
        elif self.dtypes is not None and work.dtype not in self.dtypes:
            unserved = name_of(work.dtype)
        elif self.max_head_dim is not None and work.head_dim > self.max_head_dim:
            unserved = f"a head width of {work.head_dim}, past {self.max_head_dim},"
        elif work.once and not self.serves_once:
            unserved = "paper mode"
        elif work.dropout and not self.serves_dropout:
            unserved = "dropout of attention weights"
        else:
            return self.missing()
        return f"{unserved} is not served by {self.noun}"

    def is_meant_for(self, work: Work) -> bool:
        """Whether a choice that falls on another should say why it is not this one."""
        return self.device_type == work.device.type

    def missing(self) -> str | None:
        """What must be built or installed first, as a sentence; None if nothing."""
        return None

    def strength(self, work: Work) -> str:
        """What makes it the choice for work that it serves, in words: "float32 on a CPU"."""
        kind = {"cpu": "a CPU", "cuda": "a GPU"}.get(work.device.type, f"a {work.device.type} device")
        return f"{name_of(work.dtype)} on {kind}"

    @abstractmethod
    def attend(self, q_BTHD: Tensor, k_BTHD: Tensor | None, v_BTHD: Tensor, blocks: OrderedTokens) -> Tensor:
        """Attend over whole sequences; differentiable.

        Args:
            q_BTHD: queries, of a device and dtype that the backend serves.
            k_BTHD: keys, for scores q . k / sqrt(D); None for shared queries-keys, whose keys have unit length.
            v_BTHD: values, of the queries' shape and dtype.
            blocks: orders and rule.

        Returns:
            [B, T, H, D] in the dtype of the values. A token that sees no key in any round gets its own value, or
            nothing, as the rule says.

        """

    @abstractmethod
    def attend_rows(self, vectors: Tensor, rows: OrderedRows) -> Tensor:
        """Outputs and log-sum-exps (-inf where nothing was seen) of the queries among rows of one round.

        Args:
            vectors: queries-keys and values side by side, [M, 2 D]; keys are the queries-keys at unit length.
            rows: their order, and who sees whom.

        Returns:
            Both as `pack` puts them, a row for each of `rows.own`.

        """

    @abstractmethod
    def attend_rows_backward(self, vectors: Tensor, outputs: Tensor, rows: OrderedRows) -> Tensor:
        """Gradients [M, 2 D] of the rows' queries-keys and values.

        Args:
            vectors: queries-keys and values, [M, 2 D]; rows may lie apart.
            outputs: output gradients and packed behind them the product of that gradient with the output, and the
                log-sum-exp, both of all rounds together; [M, D + 2] or wider, rows may lie apart.
            rows: as in `attend_rows`.

        """

    def hash(self, qk_BTHD: Tensor, rotations: Tensor, factors: Sequence[int], budget: Budget) -> Tensor:
        """Bucket of every token [B, H, R, T]; see `hash_buckets` of model/attention/lsh/hashing.py."""
        return hash_by_rotations(qk_BTHD, rotations, factors, budget.rotated_elements)

    def convolve(self, x_BSE: Tensor, weight_E1K: Tensor, documents_BS: Tensor | None, after: int) -> Tensor:
        """A stream and, added to it, a weighted sum of each token's nearest.

        Args:
            x_BSE: the stream; tokens before the first and behind the last count as zeros.
            weight_E1K: of each feature; the last column is that of the token furthest ahead.
            documents_BS: document of each token; tokens add only what is of their own. -1 is padding, which stays as it is.
            after: how many of the K tokens lie behind a token; the others are itself and those before it.

        """
        return convolve_by_shifts(x_BSE, weight_E1K, documents_BS, after)

    def convolve_backward(
        self, grad_BSE: Tensor, x_BSE: Tensor, weight_E1K: Tensor, documents_BS: Tensor | None, after: int
    ) -> tuple[Tensor, Tensor]:
        """Gradients of the stream and of the weights."""
        return convolve_by_shifts_backward(grad_BSE, x_BSE, weight_E1K, documents_BS, after)

    def next_projections(
        self, x_BE: Tensor, norm: StreamNorm, weights: Sequence[Tensor], biases: Sequence[Tensor]
    ) -> list[Tensor]:
        """The normalised stream times each matrix [N, E], plus its bias [N] if there are any: [B, N] of each.

        This and the methods below are of decoding: of one token more of every row. By the compiled operators a row's result
        depends neither on the other rows nor on the number of threads, to the last bit.
        """
        return decoding.next_projections(x_BE, norm, weights, biases)

    def next_product(self, x_BN: Tensor, weight_EN: Tensor, bias_E: Tensor | None) -> Tensor:
        """X times a matrix, whose rows may lie apart, [B, E]."""
        return decoding.next_product(x_BN, weight_EN, bias_E)

    def next_of_newest(
        self,
        q_BHD: Tensor,
        k_BHD: Tensor,
        v_BHD: Tensor,
        rows: Tensor,
        positions_B: Tensor,
        oldest_B: Tensor,
        waves_BF: Tensor | None,
    ) -> Tensor:
        """Attention to the tokens from a position on, [B, H, D].

        Args:
            q_BHD: queries, not yet turned.
            k_BHD: keys.
            v_BHD: values.
            rows: keys and values by position modulo C, [B, H, C, 2 D]; the new ones are put there.
            positions_B: of the new tokens, int64.
            oldest_B: the first positions that they see.
            waves_BF: turn queries and keys, complex; None for none.

        """
        return decoding.next_of_newest(q_BHD, k_BHD, v_BHD, rows, positions_B, oldest_B, waves_BF)

    def next_buckets(self, qk_BHD: Tensor, rotations_HDRF: Tensor, factors: Sequence[int]) -> Tensor:
        """Buckets [B, H, R] int32, as `hash` finds them; rotations are of each head, or of all, H = 1."""
        return decoding.next_buckets(qk_BHD, rotations_HDRF, factors)

    def next_of_buckets(
        self,
        qk_BHD: Tensor,
        v_BHD: Tensor,
        buckets_BHR: Tensor,
        filed: FiledTokens,
        positions_B: Tensor,
        waves_BF: Tensor | None,
    ) -> Tensor:
        """LSH attention to the last W tokens of a bucket in every round, [B, H, D].

        Args:
            qk_BHD: queries-keys, not yet turned.
            v_BHD: values.
            buckets_BHR: of the new tokens.
            filed: the tokens before; the new ones are put there.
            positions_B: of the new tokens, int64.
            waves_BF: turn queries and keys, complex; None for none.

        """
        return decoding.next_of_buckets(qk_BHD, v_BHD, buckets_BHR, filed, positions_B, waves_BF)

    def make_plan(self) -> DecodingPlan | None:
        """A plan without layers; None where there are only the pieces."""
        return None

    def next_probabilities(self, logits_BV: Tensor) -> Tensor:
        """Softmax of logits."""
        return decoding.next_probabilities(logits_BV)

    def take_rows(self, parts: list[Tensor], rows: Tensor) -> Tensor:
        """The same rows of several matrices [., X_p] side by side, [M, sum of X_p]."""
        return torch.cat([part.index_select(0, rows) for part in parts], dim=1)

    def add_rows(self, total: Tensor, rows: Tensor, x_MX: Tensor, counts: list[int]) -> None:
        """total[rows[i]] += x[i]. The first counts[0] entries name different rows, so do the next counts[1], and so on."""
        total.index_add_(0, rows, x_MX)

    def start_combination(self, num_rows: int, v: Tensor) -> Combination:
        """Begin to combine rounds for `num_rows` rows; `v` gives head dimension, device and dtype."""
        return RunningCombination(num_rows, v)


def name_of(dtype: torch.dtype) -> str:
    """A dtype's name without its library's."""
    return str(dtype).removeprefix("torch.")
