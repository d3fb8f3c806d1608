"""Scoring sequences, in one process or in several.

In: a model, the settings under which it is scored, a corpus. Out: a tally for each part of the work, in order.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import ray
import torch
from ray.util import ActorPool

from reformer_dist import checkpoints
from reformer_dist.config import Config
from reformer_dist.data.feeding.examples import IGNORED_LABEL
from reformer_dist.data.feeding.loader import batch_of
from reformer_dist.data.feeding.sequences import SequenceReader, num_positions, read_held_out, split_plan
from reformer_dist.data.feeding.sliding import SlidingPlan, slide
from reformer_dist.data.preparing.corpus import Corpus
from reformer_dist.errors import ConfigError
from reformer_dist.model.token_model import TokenModel
from reformer_dist.objectives.choice import make_objective
from reformer_dist.scoring.tally import Tally, tally

Settings = Mapping[str, Any]
"""Fields of the model that leave its weights as they are."""
MOST_RESTARTS = 3
"""How often a worker that was lost is started again."""


@dataclass(frozen=True)
class Part:
    """Work for one process: some sequences under some settings."""

    settings: int
    """Index of the settings."""
    sequences: tuple[int, ...]
    """Indices in the plan of what is scored."""


class Scorer:
    """A model and a corpus, ready to score."""

    def __init__(self, config: Config, model: TokenModel, corpus: Corpus, settings: Sequence[Settings]) -> None:
        """Score on the configuration's device and in its dtype."""
        self._config, self._corpus, self._settings = config, corpus, settings
        self._device = torch.device("cuda" if config.train.use_gpu else "cpu")
        dtype = torch.float64 if config.train.dtype == "float64" else None
        self._model = model.to(self._device, dtype)
        self._objective = make_objective(config.objective)
        self._tokenizer = corpus.tokenizer_of()
        self._planned = plan_of(corpus, config)
        split = config.evaluation.split
        self._reader = SequenceReader(corpus, split, config.data, 1, self._objective.others, self._planned.plan)
        self._sources = corpus.document_sources(split)
        self._under = cache(self._with_settings)

    @torch.no_grad()
    def score(self, part: Part) -> Tally:
        """Scores of some sequences, computed as validation in training does."""
        seed, num_rows = self._config.train.seed, len(part.sequences)
        rows = read_held_out(self._reader, self._objective, seed, part.sequences, num_rows, 0)
        sources_BT = np.zeros(rows["tokens"].shape, np.int64)
        for row, sequence in enumerate(part.sequences):
            rows["labels"][row, : self._planned.num_known[sequence]] = IGNORED_LABEL
            segments = self._planned.plan.segments(sequence)
            of_row = np.repeat([self._sources[document] for document, _, _ in segments], [n for _, _, n in segments])
            sources_BT[row, : len(of_row)] = of_row
        batch = batch_of(rows, 0, 0).to(self._device)
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._config.train.dtype == "bfloat16"):
            scores_BTk = self._objective.scores(self._under(part.settings), batch)
        labels = rows["labels"][rows["labels"] >= 0]
        length, num_sources = self._config.data.sequence_length, self._corpus.manifest.num_sources
        places = (batch.documents_BT, torch.from_numpy(sources_BT).to(self._device))
        return tally(scores_BTk, *places, length, num_sources, self._tokenizer.num_bytes(labels))

    def _with_settings(self, index: int) -> TokenModel:
        changes = self._settings[index]
        return self._model.with_settings(**changes) if changes else self._model


def plan_of(corpus: Corpus, config: Config) -> SlidingPlan:
    """How the documents of `evaluation.split` are cut for scoring, as `evaluation.context` and `stride` say."""
    length, options, others = config.data.sequence_length, config.evaluation, make_objective(config.objective).others
    if options.context == "sliding":
        assert options.stride is not None
        return slide(num_positions(corpus, options.split, others), length, options.stride)
    plan = split_plan(corpus, options.split, config.data, others)
    return SlidingPlan(plan, np.zeros(plan.num_sequences, np.int64))


def score_in_workers(
    config: Config, checkpoint: str, base: Settings, corpus: Corpus, settings: Sequence[Settings], parts: Sequence[Part]
) -> Iterator[Tally]:
    """The tally of each part, in order, from `evaluation.workers` processes of a Ray that runs.

    A worker that is lost is started again, and computes again what it had.

    Raises:
        ConfigError: the cluster has not as many CPUs or GPUs.
    """
    kind = "GPU" if config.train.use_gpu else "CPU"
    has = int(ray.cluster_resources().get(kind, 0))
    if config.evaluation.workers > has:
        raise ConfigError(f"evaluation.workers = {config.evaluation.workers}: there are {has} {kind}s; {has} works")
    options = {"num_cpus": 1, "num_gpus": int(config.train.use_gpu)}
    restarts = {"max_restarts": MOST_RESTARTS, "max_task_retries": MOST_RESTARTS}
    make: Any = ray.remote(_Worker)
    make = make.options(**options, **restarts)
    workers = [make.remote(config, checkpoint, base, corpus, settings) for _ in range(config.evaluation.workers)]
    try:
        pool: Any = ActorPool(workers)
        yield from pool.map(lambda worker, part: worker.score.remote(part), parts)
    finally:
        for worker in workers:
            ray.kill(worker)


class _Worker:
    """A scorer in a process of Ray."""

    def __init__(
        self, config: Config, checkpoint: str, base: Settings, corpus: Corpus, settings: Sequence[Settings]
    ) -> None:
        model, _, _ = checkpoints.read_model(checkpoint)
        self._scorer = Scorer(config, model.with_settings(**base) if base else model, corpus, settings)

    def score(self, part: Part) -> Tally:
        return self._scorer.score(part)
