"""The words of the memory formula: what a worker works on, and a moment's bytes by what they are.

In: sizes. Out: `Work` and `Parts`, which `layers.py`, `attention.py` and `cross.py` speak and `formula.py` adds up.
"""

from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields, replace
from typing import Self

from reformer_dist.config import Config, ModelConfig
from reformer_dist.model.budget import Budget


@dataclass(frozen=True)
class Work:
    """What one worker works on in the forward and backward pass of a micro-batch."""

    model: ModelConfig
    """The model."""
    budget: Budget
    """What exists at a time."""
    tokens: int
    """Tokens T of a row that are this worker's, its shard."""
    rows: int = 1
    """Sequences B."""
    head_workers: int = 1
    """Workers that divide the heads of the same tokens among them."""
    bucket_workers: int = 1
    """Workers that send tokens to their sorted place among them."""
    element: int = 4
    """Bytes of an element: 4 for float32, 8 for float64."""
    source_tokens: int = 0
    """Tokens of a source that are this worker's, in an encoder-decoder."""

    def __post_init__(self) -> None:
        """Refuse a model with an encoder that reads nothing."""
        if bool(self.source_tokens) != bool(self.model.encoder_layers):
            raise ValueError(
                f"source_tokens = {self.source_tokens} with model.encoder_layers = {self.model.encoder_layers}; a source"
                " goes with an encoder"
            )

    @classmethod
    def of(cls, config: Config, budget: Budget | None = None) -> Self:
        """Work of a worker of a training run.

        Raises:
            ValueError: train.dtype = bfloat16, whose layers the formula does not count.
        """
        if config.train.dtype == "bfloat16":
            raise ValueError("train.dtype = bfloat16 is not in the memory formula; float32 works")
        shards = config.parallel.sequence_shards
        return cls(
            config.model,
            budget or Budget.of(config.model),
            -(-config.data.sequence_length // shards),
            config.train.micro_batch_size,
            config.parallel.head_degree,
            shards // config.parallel.head_degree,
            8 if config.train.dtype == "float64" else 4,
            -(-config.data.longest_source // shards) if config.model.encoder_layers else 0,
        )

    @property
    def of_encoder(self) -> Self:
        """The encoder's part, as that of a model that is nothing else."""
        return replace(self, model=self.model.encoder, tokens=self.source_tokens, source_tokens=0)

    @property
    def num_shards(self) -> int:
        """Workers that share a sequence."""
        return self.head_workers * self.bucket_workers

    @property
    def stream(self) -> int:
        """Bytes of a stream [B, T, E]."""
        return self.of_tokens(self.tokens, self.model.embed_dim)

    def of_tokens(self, tokens: int, width: int) -> int:
        """Bytes of a tensor [B, tokens, width]."""
        return self.rows * tokens * width * self.element


@dataclass(frozen=True)
class Parts:
    """Bytes that exist at one moment of a step, above what the process held before it, by what they are."""

    streams: int = 0
    """The two streams and their gradients, and streams that layers keep; of an encoder-decoder those of both stacks, and the
    encoder's memory."""
    results: int = 0
    """What layers keep beside their streams, by `model.keep`."""
    weight_gradients: int = 0
    """Gradients of weights: those that are done, the sums of the layer that is undone, and those of its last piece."""
    heads: int = 0
    """Queries, keys, values and results of the heads that are worked on, and the gradients of these; of cross-attention keys
    and values alone."""
    lists: int = 0
    """Orders, log-sum-exps and the like: a few numbers for each token and head that is worked on."""
    pieces: int = 0
    """Activations of the tokens that a feed-forward layer, the loss, local attention or a projection works on."""
    exchanged: int = 0
    """What workers that exchange heads have received, or give back."""
    under_way: int = 0
    """Rows of routes that are sent, received or computed."""
    segment: int = 0
    """Memory that other workers of the machine read, from the first LSH layer on."""
    kept: int = 0
    """Received rows that are kept for an undo's backward half."""
    found: int = 0
    """What the forward pass found for the backward pass, of all layers: buckets or routes; and the positions' indices."""
    borrowed: int = 0
    """Tokens borrowed from neighbours, and their gradients."""
    untracked: int = 0
    """What no tensor holds."""

    @property
    def total(self) -> int:
        """All of it."""
        return sum(astuple(self))

    def __add__(self, other: "Parts") -> "Parts":
        """Part by part."""
        return Parts(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))

    def __str__(self) -> str:
        """In MiB, without what is nothing, largest first."""
        sizes = {field.name: getattr(self, field.name) for field in fields(self)}
        ordered = sorted(sizes.items(), key=lambda part: -part[1])
        return ", ".join(f"{name.replace('_', ' ')} {size / 2**20:,.1f}" for name, size in ordered if size)


def largest(moments: Iterable[Parts]) -> Parts:
    """The moment that takes most."""
    return max(moments, key=lambda parts: parts.total)
