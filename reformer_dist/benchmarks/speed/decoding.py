"""What a token costs in generation after contexts of several lengths: ours, Hugging Face's, exact attention with a cache.

In: a size. Out: a table and a CSV file of milliseconds a token and of what is remembered. The model is that of
`--suite model`, all layers LSH, batch 1, float32; beside it, how long it takes to read all of its weights once, the least
that a token can cost.

Each row is a process of its own, see measuring.py, whose threads do not sleep between operators: CPU-ms are those of both.
Contexts are random bytes.
"""

import csv
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from reformer_dist.benchmarks.speed import peers
from reformer_dist.benchmarks.speed.attention import HUGGING_FACE
from reformer_dist.benchmarks.speed.measuring import Case, Step, measure
from reformer_dist.config import ModelConfig
from reformer_dist.config.sections.model import LayerName
from reformer_dist.generation.decoding import Decoder
from reformer_dist.model.reformer import ReformerLM

LENGTHS = {"small": (1024, 4096), "paper": (1024, 16_384, 65_536)}
TURNS = {"small": 1, "paper": 1}
TOKENS = 64
"""That a step draws, one after the other."""
WEIGHTS, OURS, EXACT = "reading the weights", "ours", "exact with keys and values"
LSH: LayerName = "lsh"
FULL: LayerName = "full"


def run(size: Literal["small", "paper"], output: Path) -> None:
    """Print the table and write decoding-SIZE.csv into `output`."""
    found = [each for length in LENGTHS[size] for each in measure(cases(length), TURNS[size], waiting="active")]
    rows = []
    print(f"\nA token of a model of {peers.NUM_LAYERS} layers, width {peers.EMBED_DIM}, after a context (medians)")
    print(f"{'context':>9}  {'':<28}{'CPU-ms':>9}{'ms':>9}{'remembered, MiB':>17}")
    for each in found:
        remembered = remembered_mib(each.name, each.length)
        milliseconds = [1000 * seconds / TOKENS for seconds in (each.cpu_seconds, each.seconds)]
        rows.append((each.length, each.name, *milliseconds, remembered))
        shown = "" if remembered is None else f"{remembered:,.1f}"
        print(f"{each.length:>9,}  {each.name:<28}{milliseconds[0]:>9.2f}{milliseconds[1]:>9.2f}{shown:>17}")
    output.mkdir(parents=True, exist_ok=True)
    path = output / f"decoding-{size}.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("context", "name", "cpu_ms", "ms", "remembered_mib"))
        writer.writerows(rows)
    print(path)


def cases(length: int) -> list[Case]:
    """The weights, ours, those peers that are installed, and exact attention."""
    made: list[tuple[str, Callable[[int], Step]]] = [(WEIGHTS, reading), (OURS, partial(ours, layer=LSH))]
    found = [Case(name, length, make) for name, make in made]
    found += peers.installed([(HUGGING_FACE, "transformers", hugging_face)], length)
    return [*found, Case(EXACT, length, partial(ours, layer=FULL))]


def ours(length: int, layer: LayerName) -> Step:
    """Our model with layers of one kind; `full` is exact attention with a cache of keys and values."""
    decoder = Decoder(_model(layer, length).eval())
    decoder.read(torch.randint(peers.VOCAB_SIZE, (1, length)), only_last=True)
    token_B = torch.zeros(1, dtype=torch.int64)

    def step() -> None:
        nonlocal token_B
        for _ in range(TOKENS):
            token_B = decoder.next(token_B).argmax(-1)

    return step


def reading(length: int) -> Step:
    """All weights of our model, summed as often as a step draws tokens."""
    weights = [weight.detach().flatten() for weight in _model(LSH, length).stack.parameters()]

    def step() -> None:
        for _ in range(TOKENS):
            for weight in weights:
                weight.sum()

    return step


def hugging_face(length: int) -> Step:
    """Hugging Face's model with its cache of buckets and states."""
    from transformers import ReformerModelWithLMHead

    model: Any = ReformerModelWithLMHead(peers.hugging_face_config(_longest(length), use_cache=True)).eval()
    with torch.no_grad():
        found = model(torch.randint(peers.VOCAB_SIZE, (1, length)), use_cache=True)

    @torch.no_grad()
    def step() -> None:
        nonlocal found
        for _ in range(TOKENS):
            token = found.logits[:, -1:].argmax(-1)
            found = model(token, past_buckets_states=found.past_buckets_states, use_cache=True)

    return step


def remembered_mib(name: str, length: int) -> float | None:
    """What ours, or exact attention, remembers of a context, with the room that it then has; None for others."""
    if name not in (OURS, EXACT):
        return None
    decoder = Decoder(_model(LSH if name == OURS else FULL, length))
    decoder.read(torch.zeros(1, 1, dtype=torch.int64))
    first = decoder.num_bytes
    decoder.next(torch.zeros(1, dtype=torch.int64))  # which makes room for 64
    a_token = (decoder.num_bytes - first) / 63
    return (first + (2 * length - 1) * a_token) / 2**20


def _model(layer: LayerName, length: int) -> ReformerLM:
    config = ModelConfig(
        vocab_size=peers.VOCAB_SIZE,
        embed_dim=peers.EMBED_DIM,
        num_heads=peers.NUM_HEADS,
        feed_forward_dim=peers.FEED_FORWARD_DIM,
        layers=(layer,) * peers.NUM_LAYERS,
        max_length=_longest(length),
        num_hashes=peers.NUM_HASHES,
        lsh_window=peers.CHUNK,
    )
    return ReformerLM(config)


def _longest(length: int) -> int:
    """Room for the tokens that are drawn."""
    return 2 * length
