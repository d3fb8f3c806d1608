"""Which worker holds which shard of which sequences.

In: the configuration and an initialised torch.distributed (or none, for one process). Out: a `Topology`. Workers of one
sequence group are consecutive: rank = data_group * sequence_shards + shard.
"""

from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist

from reformer_dist.config import Config


@dataclass(frozen=True)
class Topology:
    """The grid of data groups and sequence shards, and this worker's place in it."""

    world_size: int
    rank: int
    sequence_shards: int
    sequence_length: int
    """Tokens of a whole sequence, without the padding that makes its shards equal."""
    sequence_group: dist.ProcessGroup | None
    """The workers that share this worker's sequences; None where it holds them whole."""

    @property
    def data_groups(self) -> int:
        """Sequence groups that work side by side."""
        return self.world_size // self.sequence_shards

    @property
    def data_group(self) -> int:
        """Index of this worker's sequence group."""
        return self.rank // self.sequence_shards

    @property
    def shard(self) -> int:
        """Index of this worker's shard."""
        return self.rank % self.sequence_shards


def make_topology(config: Config) -> Topology:
    """Place this process; every process must call it once, since it creates the sequence groups.

    Raises:
        ValueError: the number of processes is not a multiple of parallel.sequence_shards.
    """
    world_size, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    shards = config.parallel.sequence_shards
    if world_size % shards:
        raise ValueError(f"parallel.sequence_shards = {shards} does not divide the {world_size} workers; 1 works")
    group = None
    for first in range(0, world_size, shards) if shards > 1 else ():
        timeout = timedelta(seconds=config.parallel.timeout_seconds)
        candidate = dist.new_group(list(range(first, first + shards)), timeout=timeout)
        if first <= rank < first + shards:
            group = candidate
    return Topology(world_size, rank, shards, config.data.sequence_length, group)
