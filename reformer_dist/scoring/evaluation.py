"""Scoring a checkpoint on held-out documents, in one process.

In: a checkpoint and, unless others are named, the documents that its training held out. Out: the metrics of its objective,
beside those of the objective's baseline.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from reformer_dist import checkpoints
from reformer_dist.config import Config, flatten, load_config
from reformer_dist.config.sections.data import TEXT
from reformer_dist.data.feeding.batch import Batch
from reformer_dist.data.feeding.loader import validation_batches
from reformer_dist.data.feeding.sequences import check_fields, split_plan
from reformer_dist.data.preparing.corpus import Corpus
from reformer_dist.data.preparing.preparation import plan_preparation
from reformer_dist.data.tokenizers.tokenizer import Tokenizer
from reformer_dist.errors import ConfigError
from reformer_dist.model.reformer import ReformerLM
from reformer_dist.objectives.choice import check_objective, check_vocabulary, make_objective
from reformer_dist.objectives.objective import Objective
from reformer_dist.planning.preflight import Preflight
from reformer_dist.ray_session import ray_session


@dataclass(frozen=True)
class Evaluation:
    """How well a checkpoint predicts a split.

    Attributes:
        checkpoint: its folder or URL.
        corpus: the corpus's folder or URL.
        split: documents that were scored.
        unit: what is scored, such as "byte".
        num_sequences: sequences that were scored, of `all_sequences`.
        all_sequences: sequences that the split has.
        num_tokens: how many of the unit were scored.
        metrics: of the objective, by name; loss (nats) and bits_per_token are among them.
        baseline_name: what the baseline is of, such as "a unigram model".
        baseline: its metrics for the whole split, by the same names.
    """

    checkpoint: str
    corpus: str
    split: str
    unit: str
    num_sequences: int
    all_sequences: int
    num_tokens: int
    metrics: Mapping[str, float]
    baseline_name: str
    baseline: Mapping[str, float]

    @property
    def loss(self) -> float:
        """Nats for each of the unit."""
        return self.metrics["loss"]

    @property
    def bits(self) -> float:
        """Bits for each of the unit."""
        return self.metrics["bits_per_token"]


def evaluate(config: Config, progress: Callable[[int, int], None] = lambda done, total: None) -> Evaluation:
    """Score the checkpoint that `evaluation.checkpoint` names.

    What `config` sets wins over what the checkpoint was trained with: other documents through the data section, and
    settings of the model that leave its weights as they are, such as model.num_hashes.

    Args:
        config: the evaluation section, and whatever else is to differ from the training.
        progress: called with the number of sequences done and of all that will be.

    Raises:
        ConfigError: no such checkpoint, a damaged one, or settings that do not go with its weights.
    """
    options = config.evaluation
    path = checkpoints.resolve(options.checkpoint, config.train.storage, config.train.run_name)
    model, trained, tokenizer = checkpoints.read_model(path)
    config = _overlay(trained, config)
    check_objective(config)
    Preflight(config).on_this_machine()
    check_vocabulary(config, tokenizer.vocab_size)
    objective = make_objective(config.objective)
    device = torch.device("cuda" if config.train.use_gpu else "cpu")
    dtype = torch.float64 if config.train.dtype == "float64" else None
    model = _with_settings(model, config).to(device, dtype)
    corpus = _corpus(config, tokenizer)
    check_fields(objective, corpus)
    available = split_plan(corpus, options.split, config.data).num_sequences
    if not available:
        raise ConfigError(f"evaluation.split = {options.split} is empty in {corpus.folder}; validation works")
    num_sequences = min(available, options.max_sequences or available)
    sums, done = [0.0] * objective.num_scores, 0
    for batch in validation_batches(corpus, config, objective, 0, 0, 1, options.split, options.max_sequences):
        scores = _scores(objective, model, batch.to(device), config.train.dtype)
        sums = [x + y for x, y in zip(sums, scores, strict=True)]
        done = min(num_sequences, done + config.train.micro_batch_size)
        progress(done, num_sequences)
    return Evaluation(
        checkpoint=path,
        corpus=corpus.folder,
        split=options.split,
        unit=objective.unit(corpus.tokenizer_of().unit),
        num_sequences=num_sequences,
        all_sequences=available,
        num_tokens=round(sums[1]),
        metrics=objective.metrics(sums),
        baseline_name=objective.baseline_name,
        baseline=objective.baseline(corpus, options.split),
    )


def _overlay(trained: Config, given: Config) -> Config:
    """The training's configuration under what was given, for one process."""
    values: dict[str, Any] = dict(flatten(trained.model_dump()))
    if "sources" in given.data.model_fields_set:
        values["data.prepared"] = None  # what the training read instead of sources
    values |= flatten(given.model_dump(exclude_unset=True))
    values |= {"train.workers": 1, "parallel.sequence_shards": 1, "train.use_gpu": given.train.use_gpu}
    return load_config(None, values)


def _with_settings(model: ReformerLM, config: Config) -> ReformerLM:
    wanted = config.model.model_dump()
    changes = {name: wanted[name] for name, value in model.config.model_dump().items() if wanted[name] != value}
    if not changes:
        return model
    try:
        return model.with_settings(**changes)
    except ValueError:
        names = ", ".join(f"model.{name} = {value}" for name, value in changes.items())
        raise ConfigError(f"{names} does not go with the checkpoint's weights; leave it out") from None


def _corpus(config: Config, tokenizer: Tokenizer) -> Corpus:
    """The corpus to score, in the checkpoint's tokens: the one of its training if that is there and meant."""
    preparation = plan_preparation(config.data, config.train.storage)
    if not preparation.is_done and tokenizer.name == config.data.record_fields[TEXT].tokenizer:
        preparation = plan_preparation(config.data, config.train.storage, tokenizer)
    if preparation.is_done:
        corpus = preparation.run()
    else:
        with ray_session():
            corpus = preparation.run()
    if corpus.tokenizer_of().to_json() != tokenizer.to_json():
        raise ConfigError(
            f"{corpus.folder} has other tokens than the checkpoint was trained on; name data.sources instead"
        )
    return corpus


@torch.no_grad()
def _scores(objective: Objective, model: ReformerLM, batch: Batch, dtype: str) -> list[float]:
    """The objective's scores of a batch, computed as validation in training does."""
    with torch.autocast(batch.tokens_BT.device.type, dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
        scores: list[float] = objective.scores(model, batch).tolist()
    return scores
