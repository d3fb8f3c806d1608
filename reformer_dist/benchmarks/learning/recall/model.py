"""The models of the recall benchmarks: which attention, which recipe, and logits at the scored positions alone.

In: names of a variant and a recipe. Out: a ReformerLM that can be asked at some positions, so that logits over a large
vocabulary never exist for the many tokens that are not scored; and whether its hash rounds show a query what it looks for.

Legend: B sequences, T tokens, Q scored positions, E model dimension, V vocabulary, H heads, R hash rounds.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from reformer_dist.benchmarks.learning.quality.recipes import make_optimizer_of
from reformer_dist.config import ModelConfig, OptimizerConfig
from reformer_dist.model.attention.layer import Attention
from reformer_dist.model.attention.lsh.kind import Hashed, LSHKind
from reformer_dist.model.context import Context
from reformer_dist.model.reformer import ReformerLM

SHARE = 8
"""The window of LSH and of local attention is this part of the sequence. With the default number of buckets, twice as many,
a query sees on average a 16th of the tokens before it in a round, if hashes are spread evenly."""
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "full": {"layers": ("full", "full")},
    "shared": {"layers": ("lsh", "lsh"), "num_hashes": 1, "num_buckets": 1},
    "lsh-4": {"layers": ("lsh", "lsh"), "num_hashes": 4},
    "local,lsh-4": {"layers": ("local", "lsh"), "num_hashes": 4},
    "local": {"layers": ("local", "local")},
    "lsh-2": {"layers": ("lsh", "lsh"), "num_hashes": 2},
    "lsh-1": {"layers": ("lsh", "lsh"), "num_hashes": 1},
}
"""Fields of the model section by the name of an attention, the most telling first. `shared` is full attention whose queries
are its keys: one bucket, and a window as long as the sequence. What lsh has less than that is what hashing loses."""
RECIPES: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "no convolution": {"model.convolution": 0},
    "own values": {"model.lsh_values": "own"},
    "learned positions": {"model.positions": "learned"},
    "adamw": {"optimizer.name": "adamw"},
    "adamw, no convolution": {"model.convolution": 0, "optimizer.name": "adamw"},
}
"""What is changed of the sections model and optimizer, by the name of a recipe; they go with every variant."""
MATRICES = 2.0
"""Muon's learning rate for matrices is so many times that of all else."""


def model_config(variant: str, recipe: str, length: int, width: int, vocabulary: int, seed: int) -> ModelConfig:
    """The model of a cell: two layers, one head, causal, window mode.

    It has no position embeddings: with them the vectors of one token at two places grow apart in training, until they do not
    share buckets any more. Local and full layers have rotary positions.

    The output layer has the embedding's weights, as in the protocol: a value is said by copying it, and not learned anew for
    each of thousands. They start larger than is the default with that, or else what layers write drowns a token's identity.
    """
    window = length if variant == "shared" else length // SHARE
    fields: dict[str, Any] = {
        "vocab_size": vocabulary,
        "embed_dim": width,
        "num_heads": 1,
        "feed_forward_dim": 4 * width,
        "max_length": length,
        "lsh_window": window,
        "local_window": window,
        "positions": "none",
        "tie_embeddings": True,
        "embedding_std": 0.2,
        "seed": seed,
    }
    return ModelConfig(**{**fields, **VARIANTS[variant], **_section("model", recipe)})


def make_optimizer(model: nn.Module, recipe: str, rate: float) -> torch.optim.Optimizer:
    """The trainer's optimizer; each group of weights has its peak rate as `peak_lr`."""
    rates = {"learning_rate": rate, "matrix_learning_rate": MATRICES * rate}
    return make_optimizer_of(model, OptimizerConfig(**{**rates, **_section("optimizer", recipe)}))


def _section(name: str, recipe: str) -> dict[str, Any]:
    """A recipe's fields of a section."""
    fields = ((key.partition("."), value) for key, value in RECIPES[recipe].items())
    return {field: value for (section, _, field), value in fields if section == name}


def keys_of_exact(config: ModelConfig) -> float:
    """Keys that a token sees on average in a model of local or full layers."""
    window = config.local_window if config.layers[0] == "local" else config.max_length
    return fmean(min(place + 1, window) for place in range(config.max_length))


class ScoredLM(ReformerLM):
    """A ReformerLM that is asked at some positions only."""

    def logits_at(self, tokens_BT: Tensor, positions_BQ: Tensor, step: int = 0) -> Tensor:
        """Logits [B, Q, V] at some positions of every sequence; `step` chooses the hash rotations in training."""
        streams = self._streams(tokens_BT, None, Context(step=step))
        index_BQE = positions_BQ[..., None].expand(-1, -1, self.config.embed_dim)
        return self.output(*(stream_BTE.gather(1, index_BQE) for stream_BTE in streams))


class Sight:
    """How many scored queries had the key of what they look for among those that some hash round of some head shows them."""

    def __init__(self, queries_BQ: Tensor, targets_BQ: Tensor) -> None:
        self._queries_BQ, self._targets_BQ = queries_BQ, targets_BQ
        self.by_layer: dict[int, float] = {}
        """Share of the queries, by layer."""

    def see(self, kind: LSHKind, hashed: Hashed) -> None:
        """Take a layer's buckets; the observer of an LSH kind in `window` mode."""
        buckets_BHRT = hashed.buckets_BHRT
        targets_BQ = (self._targets_BQ - int(kind.brings_next)).clamp(min=0)  # whose keys bring the value
        places_T = torch.arange(buckets_BHRT.shape[-1])
        found_BQ = torch.zeros_like(self._queries_BQ, dtype=torch.bool)
        for q in range(self._queries_BQ.shape[1]):
            query_B1, target_B1 = self._queries_BQ[:, q, None], targets_BQ[:, q, None]
            index_BHR1 = query_B1[:, None, None].expand(*buckets_BHRT.shape[:3], 1)
            same_BHRT = buckets_BHRT == buckets_BHRT.gather(-1, index_BHR1)
            since_BT = (places_T >= target_B1) & (places_T < query_B1)
            rank_BHR = (same_BHRT & since_BT[:, None, None]).sum(-1)  # of the target among the predecessors, from 1
            met_BHR = same_BHRT.gather(-1, target_B1[:, None, None].expand_as(index_BHR1))[..., 0]
            found_BQ[:, q] = (met_BHR & (rank_BHR <= kind.config.lsh_window)).flatten(1).any(1)
        self.by_layer[kind.layer] = found_BQ.double().mean().item()


@contextmanager
def watched(model: ReformerLM, queries_BQ: Tensor, targets_BQ: Tensor) -> Iterator[Sight]:
    """Look, during a block, whether the model's LSH layers show these queries those targets (positions, int64)."""
    sight = Sight(queries_BQ, targets_BQ)
    layers = [module for module in model.modules() if isinstance(module, Attention)]
    kinds = [group.kind for layer in layers for group in layer.head_groups if isinstance(group.kind, LSHKind)]
    for kind in kinds:
        kind.observer = sight.see
    try:
        yield sight
    finally:
        for kind in kinds:
            kind.observer = None
