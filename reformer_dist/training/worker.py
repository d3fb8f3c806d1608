"""A worker's life: model, engine, starting point, batches, then the loop. All workers do all of it together.

It knows nothing of what started it: `launcher` hands it its device and a way to talk.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist

from reformer_dist import checkpoints
from reformer_dist.checkpoints import first_weights
from reformer_dist.checkpoints.writing import Writer
from reformer_dist.config import Config
from reformer_dist.data.feeding import loader
from reformer_dist.data.feeding.sequences import SequenceReader
from reformer_dist.data.preparing.corpus import Corpus
from reformer_dist.model.attention.kinds import explain_model
from reformer_dist.model.choice import make_model
from reformer_dist.objectives.choice import make_objective
from reformer_dist.parallel.collectives import Traffic
from reformer_dist.parallel.parallelize import parallelize
from reformer_dist.parallel.topology import Topology, make_topology
from reformer_dist.storage.stores import is_below
from reformer_dist.training.engine.engine import Engine
from reformer_dist.training.engine.memory import with_keep
from reformer_dist.training.loop import train
from reformer_dist.training.watch import Diverged, Wish

Message = str | int | tuple[int, dict[str, float]] | FloatingPointError
"""What a worker tells: a text, the step that training starts from, (step, metrics), or that training diverged."""

SAMPLES_SHOWN = 8
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
"""Of queries, keys and values, by `train.dtype`."""


@dataclass(frozen=True)
class Work:
    """What all workers of a training are given.

    Attributes:
        config: the configuration.
        corpus: the prepared corpus.
        folder: folder or URL of the run, for its checkpoints.
        start: checkpoint to start from while the run has none of its own.
        run_id: MLflow run, kept in checkpoints.
        weights: checkpoint of another model with whose weights a training begins that starts from nothing.
    """

    config: Config
    corpus: Corpus
    folder: str
    start: str | None
    run_id: str
    weights: str | None = None

    def starting_point(self) -> tuple[str | None, int, int]:
        """The newest good checkpoint of the run, or `start`; the steps done there; the samples' offset from here on.

        A run that goes on takes the sample after the last that it had, whatever the batch was. One that starts from
        another's checkpoint takes samples as if it had been its own all along.
        """
        own = checkpoints.newest(self.folder, report=_discard)
        path = own or self.start
        if path is None:
            return None, 0, 0
        state = checkpoints.read_state(path)
        is_own = own is not None or is_below(path, self.folder)
        return path, state.step, state.num_samples - state.step * self.config.train.batch_size if is_own else 0


def work(
    job: Work,
    device: torch.device,
    send: Callable[[Message], object],
    asked: Callable[[], Wish],
    noticed: Callable[[], bool] = lambda: False,
) -> None:
    """Train until the last step or until asked to stop; torch.distributed must be initialised.

    Args:
        job: what to do.
        device: this worker's.
        send: takes messages for the driver; only rank 0's is used.
        asked: what is wanted of the workers; only rank 0's is used.
        noticed: whether there is news of a node that will be taken away; collective.
    """
    config = job.config.with_workers(dist.get_world_size())
    topology = make_topology(config)
    tell = send if topology.rank == 0 else _discard
    wanted = config
    config, kept = with_keep(config, device)
    engine, traffic, path, step, offset = _begin(job, config, topology, device)
    if wanted != job.config:
        tell(f"workers: {topology.world_size}, as {topology.data_groups} x {topology.sequence_shards} sequence shards")
    tell(explain_model(config.model, device, DTYPES[config.train.dtype]))
    if kept is not None:
        tell(kept)
    if path is not None:
        tell(f"continuing from step {step} of {path}")
    tell(step)
    keeper = _Keeper(job, engine, path, tell, offset)
    here = (job.corpus, config, engine.objective, topology.data_group, topology.shard)
    try:
        train(
            config,
            engine,
            traffic,
            loader.batches_at_once(*here, step, offset),
            lambda: loader.validation_batches(
                *here, topology.data_groups, max_sequences=config.train.validation_sequences
            ),
            keeper.report,
            keeper.save,
            step,
            asked if topology.rank == 0 else lambda: Wish.NOTHING,
            noticed,
        )
    except Diverged as error:  # all workers see it at the same step, and starting them again would end the same way
        tell(FloatingPointError(_divergence(job, error.step, offset)))
    keeper.finish()


def _begin(
    job: Work, config: Config, topology: Topology, device: torch.device
) -> tuple[Engine, Traffic, str | None, int, int]:
    """The engine at its starting point, chosen by rank 0 for all; see `Work.starting_point`."""
    choice = [job.starting_point() if topology.rank == 0 else (None, 0, 0)]
    dist.broadcast_object_list(choice)
    path, step, offset = choice[0]
    model = make_model(config.model)
    if config.train.dtype == "float64":
        model.double()
    if path is not None:
        checkpoints.load_weights(path, model)
    elif job.weights is not None:
        first_weights.load(job.weights, model)
    traffic = parallelize(model, topology)
    engine = Engine(model, make_objective(config.objective), config, device)
    if path is not None:
        with checkpoints.optimizer_files(path) as folder:
            engine.load_state(folder, step)
    return engine, traffic, path, step, offset


class _Keeper:
    """Keeps what must not be lost with the worker: it sends metrics to the driver, and writes them into checkpoints."""

    def __init__(
        self, job: Work, engine: Engine, path: str | None, tell: Callable[[Message], object], offset: int
    ) -> None:
        """Begin with the metrics of the checkpoint at `path`, if it is of this run."""
        self._job, self._engine, self._tell, self._offset = job, engine, tell, offset
        own = path is not None and is_below(path, job.folder)
        self._metrics = checkpoints.read_metrics(path) if path is not None and own else []
        self._weights: dict[str, torch.Tensor] = {}
        self._moments: dict[str, torch.Tensor] = {}
        self._failed: OSError | None = None
        """Why the newest checkpoint was not begun."""
        train = job.config.train
        self._writer = Writer(
            job.folder,
            train.keep_checkpoints,
            job.corpus.tokenizer_of(),
            keep_best=train.keep_best,
            timeout=job.config.parallel.timeout_seconds,
        )

    def report(self, step: int, metrics: dict[str, float]) -> None:
        self._metrics.append((step, metrics))
        self._tell((step, metrics))

    def save(self, step: int, validation_loss: float | None) -> None:
        job = self._job
        state = checkpoints.State(
            step=step,
            tokenizer=job.corpus.tokenizer_of().name,
            corpus_hash=job.corpus.hash,
            run_id=job.run_id,
            workers=dist.get_world_size(),
            zero_stage=job.config.parallel.zero_stage,
            samples=step * job.config.train.batch_size + self._offset,
            validation_loss=validation_loss,
            config=job.config,
        )
        self._attempt(self._writer.finish)  # the one before reads the copies
        self._engine.copy_weights(self._weights)
        self._engine.copy_state(self._moments)
        self._failed = self._attempt(lambda: self._writer.save(state, self._weights, self._moments, self._metrics))

    def finish(self) -> None:
        if self._failed is not None:
            raise self._failed
        self._writer.finish()

    def _attempt(self, write: Callable[[], object]) -> OSError | None:
        """What kept all workers from writing a checkpoint; a disk may have room again when the next one is due."""
        try:
            write()
        except OSError as error:
            self._tell(f"{error}; training goes on, and the checkpoint before stays")
            return error
        return None


def _divergence(job: Work, step: int, offset: int) -> str:
    """One line about a step whose numbers are not finite."""
    others = make_objective(job.config.objective).others
    reader = SequenceReader(job.corpus, "train", job.config.data, 1, others)
    samples = reader.samples(job.config, step, offset).tolist()
    shown = ", ".join(map(str, samples[:SAMPLES_SHOWN])) + (", ..." if len(samples) > SAMPLES_SHOWN else "")
    return (
        f"the loss or gradient of step {step + 1} is not finite (training sequences {shown});"
        " a smaller optimizer.learning_rate may help"
    )


def _discard(*_: object) -> None:
    """Take a message and send nothing: only rank 0 sends messages."""
