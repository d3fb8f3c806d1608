"""The train section: the steps of a training, its workers, and what it keeps."""

from collections.abc import Iterable
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from reformer_dist.config.sections.section import Section


class TrainConfig(Section):
    """Length, size and place of a training run."""

    workers: PositiveInt | tuple[PositiveInt, PositiveInt] = 1
    """Ray Train workers: a number, or the least and the most of an elastic training, such as 1,8, which starts with those that there is room for, grows when nodes join and shrinks when they leave."""
    resize_seconds: PositiveFloat = 60.0
    """Least time between two looks at whether an elastic training has room for more workers; growing costs a restart."""
    use_gpu: bool = False
    """Give each worker a GPU (NCCL) instead of CPU cores (gloo)."""
    threads: PositiveInt | None = None
    """CPU threads of a worker. By default the machine's cores divided by its workers."""
    steps: PositiveInt = 1000
    """Optimizer steps."""
    batch_size: PositiveInt = 1
    """Sequences a step, over all workers."""
    micro_batch_size: PositiveInt = 1
    """Sequences a worker holds at a time; a larger share of the batch is accumulated."""
    seed: NonNegativeInt = 0
    """Seed of the order of the samples."""
    dtype: Literal["float32", "float64", "bfloat16"] = "float32"
    """Arithmetic: float32, float64, or bfloat16 (autocast; weights and streams stay float32)."""
    memory_gib: PositiveFloat | None = None
    """With model.keep auto: GiB that a worker may take. By default its share of what the machine, or all of what its GPU, has free."""
    log_every: PositiveInt = 1
    """Steps between two points on the terminal and in MLflow."""
    validate_every: PositiveInt = 100
    """Steps between two validations; the last step always validates."""
    validation_sequences: PositiveInt = 32
    """Held-out sequences scored at each validation, spread evenly over the validation split."""
    checkpoint_every: PositiveInt = 100
    """Steps between two checkpoints; the last step always writes one."""
    keep_checkpoints: PositiveInt = 2
    """Newest checkpoints to keep."""
    keep_best: bool = True
    """Keep the checkpoint with the lowest validation loss too."""
    max_failures: NonNegativeInt = 2
    """Times that lost workers are replaced and training goes on from the last checkpoint."""
    resume: str = "auto"
    """auto continues the run's own last checkpoint if there is one, none starts anew, a path starts from that checkpoint."""
    weights_from: str | None = None
    """Checkpoint, or a run's folder, whose weights a new training begins with where names and shapes agree (of the same vocabulary); an encoder may begin with a language model's. By default weights are drawn from model.seed."""
    allow_changes: tuple[str, ...] = ()
    """Fields that may be others than a run began with when it goes on, such as train.batch_size,optimizer,model.num_hashes; without it, what would change the curve is refused."""
    storage: str = "runs"
    """Folder or URL for checkpoints, prepared corpora and, by default, MLflow's database. On a cluster all nodes must reach it."""
    run_name: str = Field("reformer", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run: its folder under storage and its name in MLflow."""

    def not_allowed(self, changed: Iterable[str]) -> list[str]:
        """Those of some fields, by dotted name, that neither they nor their sections are in `allow_changes`."""
        return [name for name in changed if not {name, name.partition(".")[0]} & {*self.allow_changes}]

    @property
    def min_workers(self) -> int:
        """The least number of workers."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def max_workers(self) -> int:
        """The greatest number of workers."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]
