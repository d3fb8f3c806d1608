"""What a trained model hashes, which keys hash rounds show a query, and how much of its exact attention that is.

In: a model and sequences; a head's queries-keys [T, D]. Out: masks [Q, T] of the keys that are shown, and exact attention
weights [Q, T]; causal.

Legend: T tokens, H heads, D head dimension, Q queries, R hash rounds, F half the buckets, P probes.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from reformer_dist.model.attention.layer import Attention
from reformer_dist.model.attention.lsh.kind import Hashed, LSHKind
from reformer_dist.model.backends.description import unit_keys

Captured = dict[int, list[Tensor]]
"""Queries-keys [T, H, D] of some sequences by LSH layer."""


@torch.no_grad()
def captured(model: nn.Module, sequences: Iterable[Tensor]) -> Captured:
    """What the LSH layers hash of each sequence [1, T]."""
    found: Captured = {}
    kinds = lsh_kinds(model)
    parts: dict[int, list[Tensor]] = {}

    def see(kind: LSHKind, hashed: Hashed) -> None:
        parts.setdefault(kind.layer, []).append(hashed.qk_BTHD[0].clone())

    for kind in kinds:
        kind.observer = see
    for tokens in sequences:
        model(tokens)
        for layer, heads in parts.items():
            found.setdefault(layer, []).append(torch.cat(heads, dim=1))
        parts.clear()
    for kind in kinds:
        kind.observer = None
    return found


def lsh_kinds(model: nn.Module) -> list[LSHKind]:
    """The LSH kinds of a model's layers."""
    layers = [module for module in model.modules() if isinstance(module, Attention)]
    return [group.kind for layer in layers for group in layer.head_groups if isinstance(group.kind, LSHKind)]


def exact_weights(qk_TD: Tensor, queries_Q: Tensor) -> Tensor:
    """Attention weights [Q, T] of the queries at some positions on all keys before them."""
    scores_QT = qk_TD[queries_Q] @ unit_keys(qk_TD).T
    return scores_QT.masked_fill(~_before(len(qk_TD), queries_Q), -torch.inf).softmax(1)


def shown_by_rounds(x_TD: Tensor, rotations_DRF: Tensor, queries_Q: Tensor, window: int, probes: int = 1) -> Tensor:
    """Whether a query sees a key, [Q, T]: among the nearest `window` before it in one of its buckets, in some round.

    Args:
        x_TD: what is hashed.
        rotations_DRF: of all rounds.
        queries_Q: positions.
        window: keys that are seen in a bucket.
        probes: buckets that a query looks into in a round, the likeliest first; a key lies in its first.

    """
    rotated_TRF = torch.einsum("td,drf->trf", x_TD, rotations_DRF)
    buckets_TRP = torch.cat([rotated_TRF, -rotated_TRF], dim=-1).topk(probes, dim=-1).indices
    before_QT = _before(len(x_TD), queries_Q)
    shown_QT = torch.zeros_like(before_QT)
    for buckets_TP in buckets_TRP.unbind(1):
        for probe in range(probes):
            same_QT = before_QT & (buckets_TP[:, 0] == buckets_TP[queries_Q, probe, None])
            rank_QT = same_QT.cumsum(1, dtype=torch.int32)
            shown_QT |= same_QT & (rank_QT[:, -1:] - rank_QT < window)
    return shown_QT


def shown_recent(length: int, queries_Q: Tensor, number: int) -> Tensor:
    """Whether a key is among the last so many before a query, [Q, T]."""
    return _before(length, queries_Q) & (torch.arange(length) >= queries_Q[:, None] - number)


def shown_best(weights_QT: Tensor, number: int) -> Tensor:
    """Whether a key is among the so many that a query attends to most, [Q, T]: no choice catches more."""
    best_QN = weights_QT.topk(min(number, weights_QT.shape[1]), dim=1).indices
    return torch.zeros_like(weights_QT, dtype=torch.bool).scatter_(1, best_QN, True) & (weights_QT > 0)


def _before(length: int, queries_Q: Tensor) -> Tensor:
    return torch.arange(length) < queries_Q[:, None]
