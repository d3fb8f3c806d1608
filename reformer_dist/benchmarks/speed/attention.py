"""Time and memory of one attention layer: ours in several settings, other Reformers', and exact attention.

In: a size. Out: a table, a CSV file and a picture. A layer is LayerNorm, projections, attention and the projection back;
width 256, 4 heads of 64, 4 hash rounds, chunk 64, batch 1, float32, causal, forward and backward.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from reformer_dist.benchmarks.speed import peers
from reformer_dist.benchmarks.speed.measuring import Case, Step, measure
from reformer_dist.benchmarks.speed.report import tell
from reformer_dist.config import ModelConfig
from reformer_dist.model.attention.layer import Attention
from reformer_dist.model.budget import Budget
from reformer_dist.model.context import Context

LENGTHS = {"small": (4096, 16384), "paper": (4096, 16384, 65536)}
TURNS = {"small": 2, "paper": 3}
HUGGING_FACE, LUCIDRAINS, EXACT = "Hugging Face", "lucidrains", "exact (flash)"


def run(size: Literal["small", "paper"], output: Path) -> None:
    """Print the table; write attention-SIZE.csv and .png into `output`."""
    found = [each for length in LENGTHS[size] for each in measure(cases(length), TURNS[size])]
    baseline = HUGGING_FACE if peers.has("transformers") else EXACT
    tell(output, f"attention-{size}", "One attention layer, forward and backward", found, baseline)


def cases(length: int) -> list[Case]:
    """Ours, those peers that are installed, and exact attention."""
    found = [_ours(length, "window", 64), _ours(length, "window", 96), _ours(length, "window", 64, tokens_a_bucket=256)]
    found.append(_ours(length, "chunked", 64))
    keys = keys_of_chunks(length, peers.CHUNK, ModelConfig(max_length=length).bucket_factors)
    others = [
        (HUGGING_FACE, "transformers", peers.hugging_face_layer),
        (LUCIDRAINS, "reformer_pytorch", peers.lucidrains_layer),
    ]
    found += peers.installed(others, length, keys)
    return [*found, Case(EXACT, length, peers.exact_layer, f"{length / 2:,.0f}")]


def _ours(length: int, mode: Literal["window", "chunked"], window: int, tokens_a_bucket: int | None = None) -> Case:
    num_buckets = None if tokens_a_bucket is None else _factors(length // tokens_a_bucket)
    make: Callable[[int], Step] = partial(our_layer, mode=mode, window=window, num_buckets=num_buckets)
    factors = num_buckets or ModelConfig(max_length=length, lsh_window=window).bucket_factors
    keys = keys_of_chunks(length, window, factors) if mode == "chunked" else keys_of_window(length, window, factors)
    wide = "" if tokens_a_bucket is None else ", larger buckets"
    return Case(f"ours, {mode} {window}{wide}", length, make, keys)


def _factors(num_buckets: int) -> tuple[int, ...]:
    bits = num_buckets.bit_length() - 1
    return (num_buckets,) if bits <= 7 else (2 ** (bits // 2), 2 ** (bits - bits // 2))


def our_layer(
    length: int, mode: Literal["window", "chunked"], window: int, num_buckets: tuple[int, ...] | None = None
) -> Step:
    """A step of our LSH layer."""
    config = ModelConfig(
        embed_dim=peers.EMBED_DIM,
        num_heads=peers.NUM_HEADS,
        head_dim=peers.HEAD_DIM,
        layers=("lsh",),
        max_length=length,
        num_hashes=peers.NUM_HASHES,
        num_buckets=num_buckets,
        lsh_mode=mode,
        lsh_window=window,
        **peers.WHAT_THEY_LACK,
    )

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = Attention(config, 0, Budget.of(config))
            for weight in self.attention.parameters():
                if weight.dim() == 2:
                    nn.init.normal_(weight, std=weight.shape[1] ** -0.5)

        def forward(self, x_BTE: Tensor) -> Tensor:
            return self.attention.contribute(x_BTE, Context())[0]

    return peers.layer_step(Layer(), length)


def keys_of_window(length: int, window: int, factors: tuple[int, ...]) -> str:
    """Keys a query sees in a round: at most, and on average where hashes are spread evenly."""
    seen = place_in_bucket(_buckets(length, factors)).clamp(max=window)
    return f"up to {window}, mean {seen.double().mean():.0f}"


def keys_of_chunks(length: int, chunk: int, factors: tuple[int, ...]) -> str:
    """Keys a query is compared with in a round, and those of them that are earlier, on average."""
    order = torch.argsort(_buckets(length, factors), stable=True)
    chunks = order[: length // chunk * chunk].view(-1, chunk)
    keys = torch.cat([chunks.roll(1, dims=0), chunks], dim=1)
    earlier = (keys[:, None, :] < chunks[:, :, None]).sum(-1)
    return f"{2 * chunk}, earlier {earlier.double().mean():.0f}"


def _buckets(length: int, factors: tuple[int, ...]) -> Tensor:
    num_buckets = int(torch.tensor(factors).prod())
    return torch.randint(num_buckets, (length,), generator=torch.Generator().manual_seed(0))


def place_in_bucket(buckets_T: Tensor) -> Tensor:
    """How many earlier tokens share each token's bucket."""
    order = torch.argsort(buckets_T, stable=True)
    counts = torch.bincount(buckets_T)
    starts = counts.cumsum(0) - counts
    places = torch.empty_like(order)
    places[order] = torch.arange(len(order)) - starts[buckets_T[order]]
    return places
