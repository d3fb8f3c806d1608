"""Hash health: how evenly LSH spreads the tokens, and how much of exact attention its rounds catch, a layer at a time.

In: the queries-keys and buckets of self-attention's LSH layers in `window` mode, which an observer is shown in an
evaluation. Out: metrics by layer, an encoder's apart from a decoder's. For a few queries, drawn once for all, every key of
the sequence is scored exactly; the attention mass of the keys that the hash rounds show a query is what they *catch*. The
same queries tell what other settings would catch: tokens are hashed once more under those, with the layer's own rotations
where it has enough of them.

Legend: B batch, t tokens of this shard, T of the whole sequence, H heads, D head dimension, R hash rounds, S sampled
queries, N real tokens.
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from reformer_dist.model.attention.layer import Attention
from reformer_dist.model.attention.lsh.hashing import draw_rotations, hash_buckets
from reformer_dist.model.attention.lsh.kind import Hashed, LSHKind
from reformer_dist.model.backends.description import PADDING, unit_keys
from reformer_dist.model.randomness import Use, make_key

NUM_QUERIES = 64

STACKS = ("", "encoder_")
"""Before a layer's number in the names of its metrics: of the stack that writes, and of an encoder."""

NAMES = (
    "occupancy_entropy",
    "largest_bucket",
    "keys_seen",
    "met_again",
    "caught",
    "caught_one_round_more",
    "caught_one_round_less",
    "caught_half_the_buckets",
    "caught_twice_the_buckets",
    "caught_half_the_window",
    "caught_twice_the_window",
)
"""What is measured of a layer.

occupancy_entropy: of the tokens over the buckets of a round, as a share of the largest possible. largest_bucket: its share
of the tokens. keys_seen: different keys that a query sees in all rounds. met_again: share of them that it sees in several
rounds. caught: share of a query's exact attention mass on these keys, and what it would be with other settings.
"""

Settings = tuple[Tensor, int]
"""Buckets [R, T] of one head and the window."""


class HashHealth:
    """Collects what it is shown; each layer and head once, in the first sequence that passes."""

    def __init__(self, num_layers: int) -> None:
        """Of stacks of up to `num_layers` layers."""
        self._sums = torch.zeros(len(STACKS), num_layers, len(NAMES), 2, dtype=torch.float64)
        self._seen: set[tuple[int, int, int]] = set()
        self.seconds = 0.0
        """Time that measuring has taken."""

    def see(self, kind: LSHKind, hashed: Hashed, stack: int = 0) -> None:
        """Measure the first sequence of a batch, in a layer of STACKS[stack]."""
        place = (stack, kind.layer, hashed.context.first_head)
        if place in self._seen:
            return
        self._seen.add(place)
        start = time.perf_counter()
        with torch.no_grad(), torch.autocast(hashed.qk_BTHD.device.type, enabled=False):
            for name, (total, count) in _measure(kind, hashed).items():
                self._sums[stack, kind.layer, NAMES.index(name)] += torch.stack([total, count]).double().cpu()
        self.seconds += time.perf_counter() - start

    def sums(self) -> Tensor:
        """Sum and count behind every mean, [STACKS, layers, NAMES, 2] float64; those of several workers may be added."""
        return self._sums


def metrics(sums: Tensor) -> dict[str, float]:
    """Means by name: `hashing/layer_1/caught`, of an encoder `hashing/encoder_layer_1/caught`, over all `hashing/caught`.

    What was not measured is left out.
    """
    found: dict[str, float] = {}
    for stack, layers in zip(STACKS, sums.tolist(), strict=True):
        for layer, values in enumerate(layers):
            prefix = f"hashing/{stack}layer_{layer}"
            found |= {f"{prefix}/{name}": s / n for name, (s, n) in zip(NAMES, values, strict=True) if n}
    overall = sums.sum((0, 1)).tolist()
    return found | {f"hashing/{name}": s / n for name, (s, n) in zip(NAMES, overall, strict=True) if n}


@contextmanager
def observed(model: nn.Module) -> Iterator[HashHealth]:
    """Measure the model's LSH layers in `window` mode during a block."""
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, Attention)]
    health = HashHealth(len(layers))
    measured: list[LSHKind] = []
    for name, layer in layers:
        see = partial(health.see, stack=int("encoder" in name.split(".")))
        for kind in (group.kind for group in layer.head_groups):
            if isinstance(kind, LSHKind) and kind.config.lsh_mode == "window":
                kind.observer = see
                measured.append(kind)
    try:
        yield health
    finally:
        for kind in measured:
            kind.observer = None


def _measure(kind: LSHKind, hashed: Hashed) -> dict[str, tuple[Tensor, Tensor]]:
    """Sum and count of each of NAMES over heads and queries of the first sequence; none where it is all padding."""
    qk_tHD, buckets_HRt = hashed.turned_BTHD[0], hashed.buckets_BHRT[0]
    documents_T = _documents(hashed)
    real_N = (documents_T != PADDING).nonzero()[:, 0]
    if not len(real_N):
        return {}
    others = _other_buckets(kind, hashed)
    sample = _Sample(kind, documents_T, real_N, qk_tHD.shape[0])
    window, totals = kind.config.lsh_window, dict.fromkeys(NAMES, (torch.zeros(()), torch.zeros(())))
    for head in range(qk_tHD.shape[1]):
        weights_ST = sample.weights(qk_tHD[:, head], hashed)
        buckets_RT = _whole(buckets_HRt[head], hashed)
        found = _occupancy(buckets_RT[:, real_N], math.prod(kind.config.bucket_factors))
        found |= sample.meetings(buckets_RT, window)
        found["caught"] = sample.caught(weights_ST, (buckets_RT, window))
        settings = _other_windows(buckets_RT, window)
        for name, other_HRt in others.items():
            other_RT = _whole(other_HRt[head], hashed)
            settings[name] = (torch.cat([buckets_RT, other_RT]) if name == "one_round_more" else other_RT, window)
        for name, setting in settings.items():
            found[f"caught_{name}"] = sample.caught(weights_ST, setting)
        for name, (total, count) in found.items():
            before = totals[name]
            totals[name] = (before[0] + total.cpu(), before[1] + count.cpu())
    return totals


class _Sample:
    """Sampled queries of a sequence and the keys that each could see."""

    def __init__(self, kind: LSHKind, documents_T: Tensor, real_N: Tensor, shard: int) -> None:
        self._causal, self._shard = kind.config.causal, shard
        generator = torch.Generator().manual_seed(make_key(kind.config.seed, kind.layer, Use.HEALTH))
        count = min(NUM_QUERIES, max(8, kind.budget.sampled_scores // len(documents_T)))
        drawn = torch.randperm(len(real_N), generator=generator)[:count].sort().values
        self._positions_S = real_N[drawn.to(real_N.device)]
        keys_T, query_S1 = torch.arange(len(documents_T), device=real_N.device), self._positions_S[:, None]
        self._before_ST, self._after_ST = keys_T < query_S1, keys_T > query_S1
        order_ST = self._before_ST if self._causal else self._before_ST | self._after_ST
        self._visible_ST = order_ST & (documents_T == documents_T[query_S1])
        self._valid_S = self._visible_ST.any(1)

    def weights(self, qk_tD: Tensor, hashed: Hashed) -> Tensor:
        """Exact attention weights of a head's sampled queries on all keys, [S, T]."""
        qk_tD = qk_tD.to(torch.promote_types(qk_tD.dtype, torch.float32))
        of_workers = hashed.gather(qk_tD[self._positions_S % self._shard])  # [P, S, D], each query by its owner
        owners_S = self._positions_S // self._shard
        queries_SD = of_workers[owners_S, torch.arange(len(owners_S), device=owners_S.device)]
        scores_ST = _whole(queries_SD @ unit_keys(qk_tD).T, hashed)
        return scores_ST.masked_fill(~self._visible_ST, -torch.inf)[self._valid_S].softmax(1)

    def caught(self, weights_ST: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
        """Attention mass that some round shows, summed over the queries that have a key at all, and their number."""
        seen_ST = self._rounds(*settings)[self._valid_S] > 0
        return (weights_ST * seen_ST).sum(), self._valid_S.sum()

    def meetings(self, buckets_RT: Tensor, window: int) -> dict[str, tuple[Tensor, Tensor]]:
        """Keys that are seen, and seen in several rounds."""
        rounds_ST = self._rounds(buckets_RT, window)
        seen, again = (rounds_ST > 0).sum(), (rounds_ST > 1).sum()
        return {"keys_seen": (seen, self._valid_S.sum()), "met_again": (again, seen)}

    def _rounds(self, buckets_RT: Tensor, window: int) -> Tensor:
        """In how many rounds each query sees each key, [S, T]: the nearest `window` of its bucket (on each side)."""
        count_ST = torch.zeros_like(self._visible_ST, dtype=torch.int16)
        for buckets_T in buckets_RT:
            same_ST = self._visible_ST & (buckets_T == buckets_T[self._positions_S][:, None])
            count_ST += self._nearest(same_ST & self._before_ST, window, backwards=True)
            if not self._causal:
                count_ST += self._nearest(same_ST & self._after_ST, window, backwards=False)
        return count_ST

    @staticmethod
    def _nearest(same_ST: Tensor, window: int, *, backwards: bool) -> Tensor:
        rank_ST = same_ST.cumsum(1, dtype=torch.int32)
        if backwards:
            rank_ST = rank_ST[:, -1:] - rank_ST + 1
        return same_ST & (rank_ST <= window)


def _documents(hashed: Hashed) -> Tensor:
    """Document of every token of the whole sequence, [T]."""
    documents_BT = hashed.context.documents_BT
    if documents_BT is None:
        documents_BT = torch.zeros(1, hashed.qk_BTHD.shape[1], dtype=torch.int64, device=hashed.qk_BTHD.device)
    return _whole(documents_BT[0], hashed)


def _whole(x: Tensor, hashed: Hashed) -> Tensor:
    """This shard's [..., t] and those of the others, [..., T]; buckets as int32, since gloo sends no int16."""
    x = x.int() if x.dtype == torch.int16 else x
    return hashed.gather(x).movedim(0, -2).flatten(-2)


def _occupancy(buckets_RN: Tensor, num_buckets: int) -> dict[str, tuple[Tensor, Tensor]]:
    if num_buckets == 1:
        return {}
    rounds, tokens = buckets_RN.shape
    counts = torch.zeros(rounds, num_buckets, dtype=torch.float64, device=buckets_RN.device)
    shares = counts.scatter_add_(1, buckets_RN.long(), torch.ones_like(buckets_RN, dtype=torch.float64)) / tokens
    entropy_R = -torch.xlogy(shares, shares).sum(1) / math.log(max(2, min(num_buckets, tokens)))
    number = torch.tensor(rounds)
    return {"occupancy_entropy": (entropy_R.sum(), number), "largest_bucket": (shares.amax(1).sum(), number)}


def _other_windows(buckets_RT: Tensor, window: int) -> dict[str, Settings]:
    """Settings under which tokens have the same buckets: other windows, and one hash round less."""
    others = {"twice_the_window": (buckets_RT, 2 * window)}
    if window > 1:
        others["half_the_window"] = (buckets_RT, window // 2)
    if len(buckets_RT) > 1:
        others["one_round_less"] = (buckets_RT[:-1], window)
    return others


def _other_buckets(kind: LSHKind, hashed: Hashed) -> dict[str, Tensor]:
    """Buckets [H, R, t] that this shard's tokens would have with one more hash round, half or twice the buckets."""
    factors, rotations = kind.config.bucket_factors, hashed.rotations
    key = make_key(kind.config.seed, kind.layer, Use.HEALTH)
    rounds = rotations.shape[-2]

    def fresh(num_rounds: int, factors: Sequence[int]) -> Tensor:
        drawn = draw_rotations(key, rotations.shape[-3], num_rounds, factors)
        return drawn.to(rotations).expand(*rotations.shape[:-3], *drawn.shape)

    others = {"one_round_more": (fresh(1, factors), factors)}
    *firsts, last = factors
    parts = rotations.split([factor // 2 for factor in factors], dim=-1)
    if last % 4 == 0 or last == 2:
        half = (*firsts, last // 2)
        others["half_the_buckets"] = (torch.cat([*parts[:-1], parts[-1][..., : last // 4]], dim=-1), half)
    others["twice_the_buckets"] = (torch.cat([*parts, fresh(rounds, [last + last % 2])], dim=-1), (*firsts, 2 * last))
    qk_BtHD = hashed.qk_BTHD[:1]
    return {name: hash_buckets(qk_BtHD, *with_factors, budget=kind.budget)[0] for name, with_factors in others.items()}
