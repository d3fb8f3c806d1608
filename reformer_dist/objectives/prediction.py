"""Predicting tokens: what objectives share whose labels are tokens at some of the positions.

In: a model and a batch with such labels. Out: the cross entropy and how many labels are the likeliest token.

Legend: B batch, T tokens of this shard, V vocabulary.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

from reformer_dist.config import ObjectiveConfig
from reformer_dist.config.sections.data import TEXT
from reformer_dist.data.feeding.examples import IGNORED_LABEL, OtherFields

if TYPE_CHECKING:
    from torch import Tensor

    from reformer_dist.data.feeding.batch import Batch
    from reformer_dist.data.preparing.corpus import Corpus
    from reformer_dist.model.reformer import ReformerLM
    from reformer_dist.model.token_model import TokenModel


@dataclass(frozen=True)
class TokenPrediction:
    """The loss, scores and metrics of an objective whose labels are tokens, of the text unless it says otherwise.

    Attributes:
        settings: the objective section.
    """

    settings: ObjectiveConfig
    baseline_name: ClassVar[str] = "a unigram model"
    continues: ClassVar[bool] = True

    @property
    def fields(self) -> tuple[str, ...]:
        """The text alone."""
        return (TEXT,)

    @property
    def others(self) -> OtherFields:
        """Nothing is read beside the text."""
        return OtherFields()

    @property
    def vocabularies(self) -> tuple[str, ...]:
        """The text alone, whose tokens are read and told."""
        return (TEXT,)

    @property
    def num_extra_tokens(self) -> int:
        """None."""
        return 0

    @property
    def num_scores(self) -> int:
        """Loss, labels, labels that are right."""
        return 3

    def unit(self, token: str) -> str:
        """A token."""
        return token

    def check(self, corpus: "Corpus") -> None:
        """Any tokens will do."""

    def loss(self, model: "TokenModel", batch: "Batch", step: int) -> "Tensor":
        """Summed cross entropy in nats."""
        loss_sum, _ = cast("ReformerLM", model).loss(
            batch.tokens_BT,
            batch.labels_BT,
            batch.positions_BT,
            batch.documents_BT,
            step=step,
            first_row=batch.first_row,
            first_position=batch.first_position,
        )
        return loss_sum

    def scores(self, model: "TokenModel", batch: "Batch") -> "Tensor":
        """Cross entropy of each label, whether there is one, and whether it is the likeliest token; [B, T, 3] float64."""
        import torch
        from torch.nn.functional import cross_entropy

        pieces = []

        def look(logits_BTV: "Tensor", labels_BT: "Tensor") -> None:
            nats = cross_entropy(
                logits_BTV.flatten(0, 1), labels_BT.flatten(), ignore_index=IGNORED_LABEL, reduction="none"
            )
            right_BT = logits_BTV.argmax(-1) == labels_BT  # what is not scored has a label below all tokens
            scores = (nats.view(labels_BT.shape), labels_BT != IGNORED_LABEL, right_BT)
            pieces.append(torch.stack([score.double() for score in scores], dim=-1))

        with model.output.observed(look):
            self.loss(model, batch, step=0)
        return torch.cat(pieces, dim=1)

    def loss_metrics(self, loss: float) -> dict[str, float]:
        """The loss in nats and in bits."""
        return {"loss": loss, "bits_per_token": loss / math.log(2)}

    def metrics(self, sums: Sequence[float]) -> dict[str, float]:
        """Also the accuracy, the share of labels that are right."""
        loss_sum, num_labels, num_right = sums
        number = max(1.0, num_labels)
        return {**self.loss_metrics(loss_sum / number), "accuracy": num_right / number}
