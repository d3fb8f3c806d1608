"""The evaluation section: scoring a checkpoint."""

from collections.abc import Iterator
from typing import Literal

from pydantic import PositiveInt

from reformer_dist.config.sections.section import Section


class EvaluationConfig(Section):
    """Scoring a checkpoint (jobs/evaluate.py)."""

    checkpoint: str = "latest"
    """Checkpoint folder or URL, or of train.run_name under train.storage: latest, or best (lowest validation loss)."""
    split: Literal["validation", "test", "train", "all"] = "validation"
    """Documents to score; all for those of every split, such as a file that the training never saw."""
    max_sequences: PositiveInt | None = None
    """Score only so many sequences, spread evenly over the split. By default all."""
    context: Literal["sequence", "sliding", "document"] = "sequence"
    """What a token is told from: what is before it in its sequence, as in training; in a window that slides over longer documents; in its whole document."""
    stride: PositiveInt | None = None
    """With sliding: tokens from one window of data.sequence_length to the next. By default half a window."""
    rounds: tuple[PositiveInt, ...] = ()
    """Score the same weights with these numbers of hash rounds too, such as 1,2,4,8,16."""
    exact: bool = False
    """Score the same weights with exact attention in LSH layers too: one bucket, all keys."""
    workers: PositiveInt = 1
    """Processes that share the sequences, each on one CPU (or GPU, with train.use_gpu); with one, this process on all cores."""
    text_scores: tuple[Literal["chrf", "bleu", "rouge_l", "exact_match", "f1"], ...] = ()
    """Of a model with an encoder: how what it writes from held-out sources is scored, also at the end of a training, such as chrf,bleu. The generation section says how it is written."""
    text_baseline: Literal["copy", "lead_3", "most_frequent"] | None = None
    """What these scores stand beside: copies of the sources, their first three sentences, or the text that training has most often."""
    max_texts: PositiveInt = 200
    """Write only so many texts, spread evenly over the split."""
    track: bool = True
    """Whether jobs/evaluate.py keeps what it finds in MLflow, as a child of the training's run."""

    def problems(self) -> Iterator[str]:
        """What does not fit together among the fields."""
        if self.stride is not None and self.context != "sliding":
            yield f"evaluation.stride = {self.stride} goes with evaluation.context = sliding, not {self.context}"
