"""Pairs of a source and a text, for an encoder-decoder: a translation, a summary, an answer (Sutskever et al. 2014).

The encoder reads boundary, source; the decoder boundary, text, and is scored on the text and its end. Documents are packed
whole, each text with its own source, which no other text of the sequence sees.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, cast

from numpy.typing import NDArray

from reformer_dist.config.sections.data import SOURCE, TEXT
from reformer_dist.data.feeding.examples import OtherFields, Place, Stretch
from reformer_dist.data.preparing.corpus import Corpus
from reformer_dist.data.preparing.manifest import SplitName
from reformer_dist.objectives.prediction import TokenPrediction
from reformer_dist.objectives.unigram import end_counts, token_counts, unigram_metrics

if TYPE_CHECKING:
    from torch import Tensor

    from reformer_dist.data.feeding.batch import Batch
    from reformer_dist.model.encoder_decoder import EncoderDecoder
    from reformer_dist.model.token_model import TokenModel


class Pairs(TokenPrediction):
    """Next token of the text, whose source is known."""

    name: ClassVar[str] = "pairs"
    causal: ClassVar[bool | None] = True
    continues: ClassVar[bool] = False

    @property
    def others(self) -> OtherFields:
        """The source."""
        return OtherFields(source=SOURCE)

    def example(self, fields: Mapping[str, Stretch], place: Place) -> tuple[NDArray[Any], NDArray[Any]]:
        """Each entry of the text, and the one behind it as its label."""
        entries = fields[TEXT].entries
        return entries[:-1], entries[1:]

    def loss(self, model: "TokenModel", batch: "Batch", step: int) -> "Tensor":
        """Summed cross entropy in nats."""
        from reformer_dist.model.encoder_decoder import SourceTokens

        assert batch.source is not None
        read = batch.source
        loss_sum, _ = cast("EncoderDecoder", model).loss(
            SourceTokens(read.tokens_BS, read.positions_BS, read.documents_BS, read.first_position),
            batch.tokens_BT,
            batch.labels_BT,
            batch.positions_BT,
            batch.documents_BT,
            step=step,
            first_row=batch.first_row,
            first_position=batch.first_position,
        )
        return loss_sum

    def baseline(self, corpus: Corpus, split: SplitName) -> dict[str, float]:
        """Of the unigram frequencies of tokens and ends of texts."""
        train, scored = (token_counts(corpus, name) + end_counts(corpus, name) for name in ("train", split))
        return unigram_metrics(train, scored)
