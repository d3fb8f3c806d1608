"""How a token is drawn from logits, and the options of it.

In: logits of each row, what it has read, and a number between 0 and 1. Out: a token of each row.

Legend: B batch, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reformer_dist.model.randomness import Use, make_key

_FRACTION_BITS = 53  # of a float64


@dataclass(frozen=True)
class Sampling:
    """What may be drawn, and how likely; each option leaves the likelier tokens.

    Raises:
        ValueError: an option out of range.

    """

    temperature: float = 1.0
    """Divides the logits; 0 takes the likeliest token."""
    top_k: int | None = None
    """Only the k likeliest tokens."""
    top_p: float = 1.0
    """Only the likeliest tokens that together have this probability (Holtzman et al. 2020)."""
    min_p: float = 0.0
    """Only tokens at least so likely, as a share of the likeliest one's probability (Nguyen et al. 2024)."""
    repetition_penalty: float = 1.0
    """Divides the positive logits of tokens that were read lately and multiplies the negative ones (Keskar et al. 2019)."""
    repetition_window: int = 64
    """How many tokens back that is."""
    num_symbols: int | None = None
    """Tokens from here on are never drawn, as where a tokenizer has fewer than the model."""

    def __post_init__(self) -> None:
        for name, problem in self._problems():
            raise ValueError(f"{name} = {getattr(self, name)} {problem}")

    def _problems(self) -> Iterator[tuple[str, str]]:
        if self.temperature < 0:
            yield "temperature", "must not be negative; 1.0 works"
        if self.top_k is not None and self.top_k < 1:
            yield "top_k", "must be at least 1; 40 works"
        if not 0 < self.top_p <= 1:
            yield "top_p", "must be above 0 and at most 1; 0.9 works"
        if not 0 <= self.min_p < 1:
            yield "min_p", "must be at least 0 and below 1; 0.05 works"
        if self.repetition_penalty <= 0:
            yield "repetition_penalty", "must be above 0; 1.0 is none, 1.2 works"
        if self.repetition_window < 1:
            yield "repetition_window", "must be at least 1; 64 works"
        if self.num_symbols is not None and self.num_symbols < 1:
            yield "num_symbols", "must be at least 1"

    def draw(self, logits_BV: Tensor, read: Sequence[Sequence[int]], numbers: Sequence[float]) -> Tensor:
        """One token [B] of each row, int64.

        Args:
            logits_BV: after the tokens that were read.
            read: each row's tokens.
            numbers: at which share of the probability, from token 0 on, each row's token lies; at least 0 and below 1.

        """
        logits_BV = self._penalised(logits_BV[:, : self.num_symbols].double(), read)
        if self.temperature == 0:
            return logits_BV.argmax(-1)
        reached_BV = self._kept(logits_BV / self.temperature).softmax(-1).cumsum(-1)
        wanted_B1 = torch.tensor(numbers, dtype=torch.float64, device=logits_BV.device)[:, None] * reached_BV[:, -1:]
        return torch.searchsorted(reached_BV, wanted_B1, right=True)[:, 0].clamp(max=logits_BV.shape[-1] - 1)

    def _penalised(self, logits_BV: Tensor, read: Sequence[Sequence[int]]) -> Tensor:
        if self.repetition_penalty == 1:
            return logits_BV
        logits_BV = logits_BV.clone()
        for logits_V, tokens in zip(logits_BV, read, strict=True):
            lately = [token for token in {*tokens[-self.repetition_window :]} if token < len(logits_V)]
            of_lately = logits_V[lately]
            logits_V[lately] = torch.where(
                of_lately > 0, of_lately / self.repetition_penalty, of_lately * self.repetition_penalty
            )
        return logits_BV

    def _kept(self, logits_BV: Tensor) -> Tensor:
        """The logits with -inf for what is not drawn."""
        if self.top_k is not None and self.top_k < logits_BV.shape[-1]:
            smallest = logits_BV.topk(self.top_k).values[:, -1:]
            logits_BV = logits_BV.masked_fill(logits_BV < smallest, -torch.inf)
        if self.min_p > 0:
            probabilities = logits_BV.softmax(-1)
            too_small = probabilities < self.min_p * probabilities.amax(-1, keepdim=True)
            logits_BV = logits_BV.masked_fill(too_small, -torch.inf)
        if self.top_p < 1:
            ordered, order = logits_BV.sort(descending=True)
            probabilities = ordered.softmax(-1)
            beyond = probabilities.cumsum(-1) - probabilities >= self.top_p
            logits_BV = logits_BV.masked_fill(beyond.gather(1, order.argsort(-1)), -torch.inf)
        return logits_BV


class Numbers:
    """The numbers that a row's tokens are drawn by: a function of the seed, of its prompt, and of the tokens drawn before.

    So a row draws the same whatever other rows there are. Rows with equal prompts draw differently, by their order.
    """

    def __init__(self, seed: int, prompt: Sequence[int], copy: int) -> None:
        """Begin a row; `copy` says how many rows before it have the same prompt."""
        self._key, self._drawn = make_key(seed, Use.SAMPLING, copy, *prompt), 0

    def next(self) -> float:
        """The next number, at least 0 and below 1."""
        self._drawn += 1
        return (make_key(self._key, self._drawn) & ((1 << _FRACTION_BITS) - 1)) / (1 << _FRACTION_BITS)
