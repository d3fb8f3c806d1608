"""The parallel, optimizer and train sections: how a model is trained, by how many workers."""

from typing import Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from reformer_dist.config.section import Section


class ParallelConfig(Section):
    """How sequences and optimizer state are divided over workers."""

    sequence_shards: PositiveInt = 1
    """Workers that share one sequence, each holding one contiguous shard of it."""
    attention: Literal["heads", "buckets", "both"] = "heads"
    """How shards exchange in attention. heads: each worker attends whole sequences for its part of the heads; buckets: each attends its part of every hash round's sorted tokens; both: heads among neighbours, buckets across."""
    head_shards: PositiveInt | None = None
    """With attention = both: workers that divide the heads among them, a divisor of sequence_shards (the GPUs of a node, say)."""
    zero_stage: int = Field(1, ge=0, le=3)
    """DeepSpeed ZeRO stage: 0 none, 1 optimizer state, 2 gradients too, 3 parameters too are divided over the workers."""
    offload_optimizer: bool = False
    """Keep the optimizer's state, and its step, in the memory of the CPU instead of the GPU's (ZeRO stages 1 to 3)."""
    timeout_seconds: PositiveFloat = 600.0
    """Longest wait for another worker in a collective; after it the step fails instead of hanging."""

    @property
    def head_degree(self) -> int:
        """Workers that divide the heads of the same tokens among them."""
        if self.attention == "both":
            return self.head_shards or 1
        return self.sequence_shards if self.attention == "heads" else 1

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.offload_optimizer and self.zero_stage == 0:
            raise ValueError(
                "parallel.offload_optimizer = True needs the optimizer state divided, not parallel.zero_stage = 0; 1 works"
            )
        if self.attention != "both" and self.head_shards is not None:
            raise ValueError(
                f"parallel.head_shards = {self.head_shards} goes with parallel.attention = both; leave it out"
            )
        if self.attention == "both" and (self.head_shards is None or self.sequence_shards % self.head_shards):
            raise ValueError(
                f"parallel.head_shards = {self.head_shards} must divide parallel.sequence_shards = {self.sequence_shards}; 1 works"
            )
        return self


class OptimizerConfig(Section):
    """AdamW and its schedule."""

    learning_rate: PositiveFloat = 1e-3
    """Peak learning rate."""
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """Learning rate after the warm-up: constant, or falling to final_fraction at train.steps."""
    warmup_steps: NonNegativeInt = 20
    """Steps in which the learning rate rises from zero to its peak."""
    final_fraction: float = Field(0.1, ge=0.0, le=1.0)
    """Last learning rate as a share of the peak."""
    betas: tuple[float, float] = (0.9, 0.98)
    """AdamW's decay rates of the first and second moment."""
    eps: PositiveFloat = 1e-8
    """AdamW's epsilon."""
    weight_decay: NonNegativeFloat = 0.01
    """AdamW's weight decay, on matrices only (not on biases, norms and position embeddings)."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients with a larger global norm are scaled down to it."""


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
    storage: str = "runs"
    """Folder or URL for checkpoints, prepared corpora and, by default, MLflow's database. On a cluster all nodes must reach it."""
    run_name: str = Field("reformer", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run: its folder under storage and its name in MLflow."""

    @property
    def min_workers(self) -> int:
        """The least number of workers."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def max_workers(self) -> int:
        """The greatest number of workers."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]
