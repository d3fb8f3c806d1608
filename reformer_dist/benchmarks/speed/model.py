"""Time and memory of a training step of a whole language model: ours, other Reformers', and an exact transformer.

In: a size. Out: a table, a CSV file and a picture. Six layers, width 256, feed-forward 1,024, bytes, loss included, four
hash rounds, batch 1, float32, causal, forward and backward; Reformers are reversible, so their backward pass computes twice.
"""

from functools import partial
from pathlib import Path
from typing import Any, Literal

from reformer_dist.benchmarks.speed import peers
from reformer_dist.benchmarks.speed.attention import EXACT, HUGGING_FACE, LUCIDRAINS
from reformer_dist.benchmarks.speed.measuring import Case, Step, measure
from reformer_dist.benchmarks.speed.report import tell
from reformer_dist.config import ModelConfig
from reformer_dist.model.reformer import ReformerLM

LENGTHS = {"small": (8192,), "paper": (8192, 16384, 65536)}
TURNS = {"small": 1, "paper": 3}
Kind = Literal["local", "lsh"]
ALL_LSH: tuple[Kind, ...] = ("lsh", "lsh", "lsh", "lsh", "lsh", "lsh")
ALTERNATING: tuple[Kind, ...] = ("local", "lsh", "local", "lsh", "local", "lsh")


def run(size: Literal["small", "paper"], output: Path) -> None:
    """Print the table; write model-SIZE.csv and .png into `output`."""
    found = [each for length in LENGTHS[size] for each in measure(cases(length), TURNS[size])]
    baseline = HUGGING_FACE if peers.has("transformers") else EXACT
    tell(output, f"model-{size}", f"A model of {peers.NUM_LAYERS} layers, forward and backward", found, baseline)


def cases(length: int) -> list[Case]:
    """Ours, those peers that are installed, and the exact transformer."""
    found = [
        Case("ours, LSH", length, partial(our_model, layers=ALL_LSH)),
        Case("ours, LSH, chunked", length, partial(our_model, layers=ALL_LSH, mode="chunked")),
        Case("ours, local and LSH", length, partial(our_model, layers=ALTERNATING)),
    ]
    found += peers.installed(
        [
            (HUGGING_FACE, "transformers", peers.hugging_face_model),
            (LUCIDRAINS, "reformer_pytorch", peers.lucidrains_model),
        ],
        length,
    )
    return [*found, Case(EXACT, length, peers.exact_model)]


def our_model(
    length: int,
    layers: tuple[Kind, ...],
    mode: Literal["window", "chunked"] = "window",
    embed_dim: int = peers.EMBED_DIM,
    **others: Any,
) -> Step:
    """A step of our language model; heads are 64 wide and the feed-forward layers four times as wide as the model.

    `others` are fields of the model section.
    """
    config = ModelConfig(
        vocab_size=peers.VOCAB_SIZE,
        embed_dim=embed_dim,
        num_heads=embed_dim // peers.HEAD_DIM,
        head_dim=peers.HEAD_DIM,
        feed_forward_dim=4 * embed_dim,
        layers=layers,
        max_length=length,
        num_hashes=peers.NUM_HASHES,
        lsh_mode=mode,
        lsh_window=peers.CHUNK,
        activation="gelu",
        **peers.WHAT_THEY_LACK,
        **others,
    )
    model = ReformerLM(config).train()
    return peers.model_step(model, lambda tokens, labels: model.loss(tokens, labels)[0], length)
