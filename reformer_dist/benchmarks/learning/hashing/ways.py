"""Ways to choose the keys that a query sees, all with as many keys at most as the model's own rounds show.

In: queries-keys of a layer. Out: the exact attention mass that each way catches, and the keys it takes.

Legend: T tokens, H heads, D head dimension, R hash rounds, F half the buckets, Q queries.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from reformer_dist.benchmarks.learning.hashing.fitting import learned_rotations, mean_and_whitening
from reformer_dist.benchmarks.learning.hashing.looking import (
    exact_weights,
    shown_best,
    shown_by_rounds,
    shown_recent,
)
from reformer_dist.config import ModelConfig
from reformer_dist.model.attention.lsh.hashing import draw_rotations

Way = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From queries-keys [T, D], queries [Q] and exact weights [Q, T] to the keys that are shown, [Q, T]."""


class Choice(NamedTuple):
    """What a way came to in a layer, mean over queries, heads and sequences."""

    layer: int
    name: str
    caught: float
    """Share of the exact attention mass."""
    keys: float
    """Keys that a query sees."""


def choices(
    config: ModelConfig, layer: int, fitted: Sequence[Tensor], looked_at: Sequence[Tensor], num_queries: int
) -> Iterator[Choice]:
    """What each way comes to on the sequences [T, H, D] `looked_at`, fitted to others where it is fitted."""
    generator = torch.Generator().manual_seed(layer)
    found: dict[str, list[tuple[float, float]]] = {}
    for head in range(config.num_heads):
        ways = ways_to_choose(config, [x_THD[:, head] for x_THD in fitted], seed=100 * layer + head)
        for qk_TD in (x_THD[:, head] for x_THD in looked_at):
            queries_Q = torch.randint(len(qk_TD) // 16, len(qk_TD), (num_queries,), generator=generator)
            weights_QT = exact_weights(qk_TD, queries_Q)
            for name, way in ways.items():
                shown_QT = way(qk_TD, queries_Q, weights_QT)
                caught, keys = (weights_QT * shown_QT).sum(1).mean(), shown_QT.sum(1).float().mean()
                found.setdefault(name, []).append((float(caught), float(keys)))
    for name, values in found.items():
        yield Choice(layer, name, fmean(caught for caught, _ in values), fmean(keys for _, keys in values))


def ways_to_choose(config: ModelConfig, fitted: Sequence[Tensor], seed: int) -> Mapping[str, Way]:
    """Ways for a head; `fitted` are its queries-keys [T, D] of training sequences."""
    buckets, rounds = int(np.prod(config.bucket_factors)), config.num_hashes
    most = rounds * config.lsh_window
    mean_D, whitening_DD = mean_and_whitening(torch.cat([*fitted]))
    learned_DRF = learned_rotations(fitted, buckets, rounds, seed)

    def by(rotations_DRF: Tensor, probes: int = 1, transform: Callable[[Tensor], Tensor] = torch.clone) -> Way:
        window = most // (rotations_DRF.shape[1] * probes)
        return lambda x_TD, queries_Q, _: shown_by_rounds(transform(x_TD), rotations_DRF, queries_Q, window, probes)

    def drawn(num_hashes: int, times: float = 1) -> Tensor:
        return draw_rotations(seed, config.head_width, num_hashes, (2 * max(1, int(buckets * times / 2)),))

    return {
        "the most recent": lambda x_TD, queries_Q, _: shown_recent(len(x_TD), queries_Q, most),
        "1 round": by(drawn(1)),
        "2 rounds": by(drawn(2)),
        "4 rounds": by(drawn(4)),
        "8 rounds": by(drawn(8)),
        "1 round, 2 probes": by(drawn(1), 2),
        "1 round, 4 probes": by(drawn(1), 4),
        "2 rounds, 2 probes": by(drawn(2), 2),
        "2 rounds, buckets / 4": by(drawn(2, 1 / 4)),
        "2 rounds, buckets x 4": by(drawn(2, 4)),
        "4 rounds, buckets x 4": by(drawn(4, 4)),
        f"{rounds} rounds, mean taken off": by(drawn(rounds), transform=lambda x_TD: x_TD - mean_D),
        f"{rounds} rounds, whitened": by(drawn(rounds), transform=lambda x_TD: (x_TD - mean_D) @ whitening_DD),
        f"{rounds} rounds, learned": by(learned_DRF),
        "the best there are": lambda x_TD, queries_Q, weights_QT: shown_best(weights_QT, most),
    }


def table(found: Sequence[Choice]) -> str:
    """Text: mass caught in percent and keys seen, a column pair for each layer."""
    layers = sorted({choice.layer for choice in found})
    lines = [" " * 28 + "".join(f"{f'layer {layer + 1}':>16}" for layer in layers)]
    for name in dict.fromkeys(choice.name for choice in found):
        of_layers = {choice.layer: choice for choice in found if choice.name == name}
        entries = (f"{of_layers[layer].caught:>9.1%}{of_layers[layer].keys:>7.1f}" for layer in layers)
        lines.append(f"{name:<28}{''.join(entries)}")
    return "\n".join(lines)
