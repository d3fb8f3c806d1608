"""The parallel section: how sequences and optimizer state are divided over workers."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from reformer_dist.config.sections.section import Section


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

    def problems(self) -> Iterator[str]:
        """What does not fit together among the fields."""
        if self.offload_optimizer and self.zero_stage == 0:
            yield "parallel.offload_optimizer = True needs the optimizer state divided, not parallel.zero_stage = 0; 1 works"
        if self.attention != "both" and self.head_shards is not None:
            yield f"parallel.head_shards = {self.head_shards} goes with parallel.attention = both; leave it out"
        if self.attention == "both" and (self.head_shards is None or self.sequence_shards % self.head_shards):
            yield f"parallel.head_shards = {self.head_shards} must divide parallel.sequence_shards = {self.sequence_shards}; 1 works"
