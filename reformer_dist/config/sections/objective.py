"""The objective section: what a model learns."""

from collections.abc import Iterator

from pydantic import Field, PositiveInt

from reformer_dist.config.sections.section import Section


class ObjectiveConfig(Section):
    """What a model learns from its documents."""

    name: str = "next_token"
    """next_token (each token from those before it), masked (BERT's: hidden tokens from both sides, with model.causal false), copy (the second half of a document from the first), prefix (a text behind a field called prefix, which is not scored), pairs (a text from a field called source, which an encoder reads), labels (a label for each token, from an aligned field called labels), or spans (T5's: spans of a text, from the rest of it, which an encoder reads)."""
    masked_share: float = Field(0.15, gt=0.0, lt=1.0)
    """With masked: share of the tokens that are to be predicted."""
    masked_hidden: float = Field(0.8, ge=0.0, le=1.0)
    """With masked: share of these that the model reads as the mask token."""
    masked_random: float = Field(0.1, ge=0.0, le=1.0)
    """With masked: share of these that it reads as a random token; the rest it reads as they are."""
    spans_share: float = Field(0.15, gt=0.0, lt=1.0)
    """With spans: share of the tokens that are taken out of a text and told."""
    spans_length: float = Field(3.0, ge=1.0)
    """With spans: mean length of a span in tokens."""
    spans_sentinels: PositiveInt = 100
    """With spans: tokens behind the vocabulary that each stand for a span; a text with more spans uses them again from the first on."""
    labels_mask: str | None = None
    """With labels: a third field, aligned with the text, that has a 1 for each token whose label is scored. By default all are."""
    labels_unscored: str = ""
    """With labels: labels that are not scored, a character each, such as ? for those that are not known."""

    def problems(self) -> Iterator[str]:
        """What does not fit together among the fields."""
        if self.masked_hidden + self.masked_random > 1.0:
            yield f"objective.masked_hidden = {self.masked_hidden} and objective.masked_random = {self.masked_random} are more than all; 0.8 and 0.1 work"
