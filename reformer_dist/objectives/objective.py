"""What an objective is: what a model learns from its documents, and how well it has learned it.

In: stretches of documents; a model and a batch. Out: examples, a loss, sums of scores, metrics. What trains, evaluates,
sweeps and reports knows this interface and no objective. The first half of it, `Examples`, runs in Ray Data's
tasks: a module of an objective is imported without torch.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol

from reformer_dist.data.feeding.examples import Examples
from reformer_dist.data.preparing.corpus import Corpus
from reformer_dist.data.preparing.manifest import SplitName

if TYPE_CHECKING:
    from torch import Tensor

    from reformer_dist.data.feeding.batch import Batch
    from reformer_dist.model.token_model import TokenModel


class Objective(Examples, Protocol):
    """What every objective has; it is frozen and can be pickled.

    Attributes:
        name: as in `objective.name`.
        causal: whether the model must be causal, must not be, or may be either (None).
        baseline_name: what `baseline` is of, for readers of tables: "a unigram model".
        continues: whether a causal model that learned it can be asked for the next token of a text.
    """

    name: ClassVar[str]
    causal: ClassVar[bool | None]
    baseline_name: ClassVar[str]
    continues: ClassVar[bool]

    @property
    def vocabularies(self) -> tuple[str, ...]:
        """Fields whose tokens the model must know, since it reads them or is scored on them."""

    @property
    def num_extra_tokens(self) -> int:
        """Tokens that the model needs behind the tokenizer's vocabulary, a mask for one."""

    def unit(self, token: str) -> str:
        """What is scored, for readers of figures, where a token is a `token`: "byte" or "hidden byte"."""

    def check(self, corpus: Corpus) -> None:
        """Whether examples can be made of the tokens of a corpus that has the fields.

        Raises:
            ConfigError: they can't.
        """

    def loss(self, model: "TokenModel", batch: "Batch", step: int) -> "Tensor":
        """Sum of the losses of the batch's labels in nats, a scalar; whoever calls divides by the global count of labels."""

    def scores(self, model: "TokenModel", batch: "Batch") -> "Tensor":
        """Scores of each position of a held-out batch, float64 [B, T, k], zero where there is no label.

        The loss as in `loss`, 1 for a label, and what else `metrics` needs. Whoever calls adds them, over all positions of
        all batches and workers or over some. Called without gradients.
        """

    @property
    def num_scores(self) -> int:
        """Entries of `scores`."""

    def loss_metrics(self, loss: float) -> dict[str, float]:
        """Metrics by name, without the split, of a mean loss, which is all that a training step knows.

        loss (nats) and bits_per_token are among them: sweeps rank by the latter, and pictures draw it.
        """

    def metrics(self, sums: Sequence[float]) -> dict[str, float]:
        """Metrics by name of summed `scores`, those of `loss_metrics` and more."""

    def baseline(self, corpus: Corpus, split: SplitName) -> dict[str, float]:
        """Metrics of the same names of what can be had without a model."""
