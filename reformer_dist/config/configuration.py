"""The whole configuration: every section, and what must hold between them."""

import math
import re
from collections.abc import Iterable, Iterator
from typing import Any, Self

from reformer_dist.config.sections.data import DataConfig
from reformer_dist.config.sections.evaluation import EvaluationConfig
from reformer_dist.config.sections.export import ExportConfig
from reformer_dist.config.sections.generation import GenerationConfig
from reformer_dist.config.sections.model import ModelConfig
from reformer_dist.config.sections.objective import ObjectiveConfig
from reformer_dist.config.sections.optimizer import OptimizerConfig
from reformer_dist.config.sections.parallel import ParallelConfig
from reformer_dist.config.sections.section import Section
from reformer_dist.config.sections.tracking import TrackingConfig
from reformer_dist.config.sections.training import TrainConfig
from reformer_dist.config.sections.tuning import TuneConfig

_PASSWORD = re.compile(r"(\w+://[^/@:]*):[^/@]+(@[^/?]*)")


class Config(Section):
    """Every setting of a run, by section."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    parallel: ParallelConfig = ParallelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    tracking: TrackingConfig = TrackingConfig()
    tune: TuneConfig = TuneConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    generation: GenerationConfig = GenerationConfig()
    export: ExportConfig = ExportConfig()

    @property
    def data_groups(self) -> int:
        """Sequence groups that work side by side on different sequences; of an elastic training see `with_workers`."""
        assert isinstance(self.train.workers, int)
        return self.train.workers // self.parallel.sequence_shards

    def with_workers(self, workers: int) -> Self:
        """This training on a number of workers: itself, or, if it is elastic, one whose workers are that number.

        Its sequence shards are `parallel.sequence_shards` where that divides the workers; else the least greater number
        that does and that attention can work with, since no worker then holds more of a sequence than it was meant to;
        else the greatest smaller one. Head shards are what they have in common with `parallel.head_shards`. The data
        groups share `train.batch_size` as equally as they can.

        Raises:
            ValueError: there are no such shards, or there would be more data groups than sequences in a batch.
        """
        if isinstance(self.train.workers, int):
            assert workers == self.train.workers
            return self
        wanted = self.parallel.sequence_shards
        divisors = [number for number in range(1, workers + 1) if workers % number == 0]
        problem = None
        for shards in sorted(divisors, key=lambda number: (number < wanted, abs(number - wanted))):
            try:
                return self._with_grid(workers, shards)
            except ValueError as error:
                problem = error
        assert problem is not None
        raise problem

    def _with_grid(self, workers: int, shards: int) -> Self:
        if workers // shards > self.train.batch_size:
            raise ValueError(
                f"train.batch_size = {self.train.batch_size} is not enough for {workers // shards} data groups"
            )
        heads = self.parallel.head_shards and math.gcd(self.parallel.head_shards, shards)
        parallel = self.parallel.model_copy(update={"sequence_shards": shards, "head_shards": heads})
        train = self.train.model_copy(update={"workers": workers})
        config = self.model_copy(update={"parallel": parallel, "train": train})
        for problem in (*config._heads_problems(), *config._exchange_problems()):
            raise ValueError(problem)
        return config

    def problems(self) -> Iterator[str]:
        """What does not fit together between sections that are each right."""
        yield from self.problems_between(type(self).model_fields)

    def problems_between(self, sections: Iterable[str]) -> Iterator[str]:
        """What does not fit together between some sections; the others are not looked at, as if they were right.

        What depends on a number of shards that is told to be wrong is left out: another number would change it.
        """
        known = frozenset(sections)
        for field, shown in self.passwords(name for name in Config.model_fields if name in known):
            yield f"{field} = {shown} holds a password, which would be logged; leave it out and set it in the environment (S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; MLflow: MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, PGPASSWORD)"
        if known >= {"data", "model"}:
            yield from self._length_problems()
        shards = [*self._shards_problems()] if known >= {"data", "parallel"} else []
        if known >= {"model", "parallel"}:
            shards += self._heads_problems()
        yield from shards
        if shards:
            return
        exchange = [*self._exchange_problems()] if known >= {"data", "model", "parallel"} else []
        yield from exchange
        if isinstance(self.train.workers, int):
            if known >= {"parallel", "train"}:
                yield from self._workers_problems(self.train.workers)
        elif known >= {"data", "model", "parallel", "train"} and not exchange:
            yield from self._sizes_problems(*self.train.workers)

    def passwords(self, sections: Iterable[str]) -> Iterator[tuple[str, str]]:
        """Fields of some sections that hold a password, each with its value without it."""
        for section in sections:
            for field, value in getattr(self, section):
                found = next((match for text in _texts(value) if (match := _PASSWORD.match(text))), None)
                if found:
                    yield f"{section}.{field}", f"{found[1]}:...{found[2]}"

    def _length_problems(self) -> Iterator[str]:
        length = self.data.sequence_length
        if length > self.model.max_length:
            yield f"data.sequence_length = {length} is longer than model.max_length = {self.model.max_length}; set model.max_length to {length}"
        if self.data.source_length is not None and not self.model.encoder_layers:
            yield f"data.source_length = {self.data.source_length} goes with model.encoder_layers, which are none; leave it out, or model.encoder_layers = local,lsh works"
        source, longest = self.data.longest_source, self.model.encoder.max_length
        if self.model.encoder_layers and source > longest:
            name = "data.sequence_length" if self.data.source_length is None else "data.source_length"
            yield f"{name} = {source} is longer than model.max_source_length = {longest}; set model.max_source_length to {source}"

    def _shards_problems(self) -> Iterator[str]:
        shards, length = self.parallel.sequence_shards, self.data.sequence_length
        if shards > length:
            yield f"parallel.sequence_shards = {shards} is more than data.sequence_length = {length} has tokens; {length} or fewer works"
        elif shards > (source := self.data.longest_source):
            yield f"parallel.sequence_shards = {shards} is more than data.source_length = {source} has tokens; {source} or fewer works"

    def _workers_problems(self, workers: int) -> Iterator[str]:
        """Whether workers and batch divide evenly."""
        shards = self.parallel.sequence_shards
        if workers % shards:
            yield f"train.workers = {workers} is not a multiple of parallel.sequence_shards = {shards}; {shards * math.ceil(workers / shards)} works"
        elif self.train.batch_size % self.data_groups:
            works = self.data_groups * math.ceil(self.train.batch_size / self.data_groups)
            yield f"train.batch_size = {self.train.batch_size} does not divide over {self.data_groups} data groups (train.workers / parallel.sequence_shards); {works} works"

    def _sizes_problems(self, least: int, most: int) -> Iterator[str]:
        """Whether an elastic training can have every size; the first that it cannot have is told."""
        if least > most:
            yield f"train.workers = {least},{most} has the least number after the most; {most},{least} works"
        for workers in range(least, most + 1):
            try:
                self.with_workers(workers)
            except ValueError as error:
                works = f"{min(least, workers - 1)},{workers - 1}"
                yield f"train.workers = {least},{most} may become {workers}, where {error}; {works} works"
                return

    def _heads_problems(self) -> Iterator[str]:
        """Whether the heads divide over the workers that share them."""
        parallel, num_heads = self.parallel, self.model.num_heads
        shards = parallel.head_degree
        if num_heads % shards:
            works = max(d for d in range(1, shards) if num_heads % d == 0)
            name = "head_shards" if parallel.attention == "both" else "sequence_shards"
            yield f"parallel.{name} = {shards} does not divide model.num_heads = {num_heads} (parallel.attention = {parallel.attention}); {works} works"

    def _exchange_problems(self) -> Iterator[str]:
        """Whether the attention layers can work where no worker holds whole sequences."""
        parallel, model = self.parallel, self.model
        if parallel.sequence_shards == parallel.head_degree:
            return
        # A kind needs whole sequences unless it is named here.
        needs_whole = {
            "model.layers": next((kind for kind in model.layers if kind not in ("local", "lsh")), None),
            "model.encoder_layers": next((kind for kind in model.encoder_layers if kind not in ("local", "lsh")), None),
            "model.lsh_mode": model.lsh_mode if "lsh" in model.kinds and model.lsh_mode != "window" else None,
            "model.local_mode": model.local_mode if "local" in model.kinds and model.local_mode != "window" else None,
        }
        for name, value in needs_whole.items():
            if value is not None:
                yield f"{name} = {value} needs whole sequences, which parallel.attention = {parallel.attention} never holds; parallel.attention = heads works"
        lengths = {"layers": self.data.sequence_length, "encoder_layers": self.data.longest_source}
        used = [length for stack, length in lengths.items() if "lsh" in getattr(model, stack)]
        shard = parallel.head_degree * math.ceil(min(used, default=0) / parallel.sequence_shards)
        if used and model.lsh_window > shard:
            yield f"model.lsh_window = {model.lsh_window} reaches beyond a neighbour's {shard} tokens (parallel.attention = {parallel.attention}); {shard} works"


def _texts(value: Any) -> Iterator[str]:
    """The strings of a field's value."""
    if isinstance(value, Section):
        value = dict(value)
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, tuple | list):
        for inner in value:
            yield from _texts(inner)
