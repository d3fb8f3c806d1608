"""What an evaluation found: of the whole, by how much came before, by source, by settings of attention."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reformer_dist.config import Config
from reformer_dist.scoring.texts.writing import WrittenTexts


@dataclass(frozen=True)
class Share:
    """A part of what was scored: the metrics of its positions.

    Attributes:
        name: "16 to 31" tokens before, or a source.
        num_tokens: how many were scored.
        metrics: of the objective, by name.
    """

    name: str
    num_tokens: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Scores:
    """What the model comes to under one setting of its attention.

    Attributes:
        metrics: of the objective, by name; loss (nats) and bits_per_token are among them.
        num_tokens: how many were scored.
        num_bytes: bytes of what was scored, an end of a document being one.
        by_context: by the number of tokens of its document that were before, in buckets that double; empty ones left out.
        by_source: by source, where the corpus has several.
    """

    metrics: Mapping[str, float]
    num_tokens: int
    num_bytes: int
    by_context: Sequence[Share]
    by_source: Sequence[Share]

    @property
    def bits_per_byte(self) -> float:
        """Bits of all labels over their bytes, which compares models of different tokenizers."""
        return self.metrics["bits_per_token"] * self.num_tokens / max(1, self.num_bytes)


@dataclass(frozen=True)
class Evaluation:
    """How well a checkpoint predicts a split.

    Attributes:
        checkpoint: its folder or URL.
        corpus: the corpus's folder or URL.
        split: documents that were scored.
        unit: what is scored, such as "byte".
        num_sequences: sequences that were scored, of `all_sequences`.
        all_sequences: sequences that there are.
        context: what a token was told from, for readers.
        settings: scores by settings of attention, such as "2 rounds"; as configured first.
        baseline_name: what the baseline is of, such as "a unigram model"; empty where several splits are scored.
        baseline: its metrics for the whole split, by the same names.
        config: what was evaluated.
        written: what an encoder-decoder wrote from sources, where `evaluation.text_scores` asks for it.
    """

    checkpoint: str
    corpus: str
    split: str
    unit: str
    num_sequences: int
    all_sequences: int
    context: str
    settings: Mapping[str, Scores]
    baseline_name: str
    baseline: Mapping[str, float]
    config: Config
    written: WrittenTexts | None = None

    @property
    def scores(self) -> Scores:
        """Those of the model as it is configured."""
        return next(iter(self.settings.values()))

    @property
    def metrics(self) -> Mapping[str, float]:
        """Of the model as it is configured."""
        return self.scores.metrics

    @property
    def num_tokens(self) -> int:
        """How many of the unit were scored."""
        return self.scores.num_tokens

    @property
    def loss(self) -> float:
        """Nats for each of the unit."""
        return self.metrics["loss"]

    @property
    def bits(self) -> float:
        """Bits for each of the unit."""
        return self.metrics["bits_per_token"]
