"""Which worker holds which shard of which sequences.

In: the configuration and an initialised torch.distributed (or none, for one process). Out: a `Topology`. Workers of one
sequence group are consecutive, and so are those of it that exchange heads:

    rank = (data_group * bucket_shards + bucket_shard) * head_shards + head_shard
    shard = bucket_shard * head_shards + head_shard
"""

from collections.abc import Iterable
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
    source_length: int
    """The same of a whole source, in an encoder-decoder."""
    sequence_group: dist.ProcessGroup | None
    """The workers that hold the same sequences, in the order of their shards; None for one alone."""
    head_group: dist.ProcessGroup | None
    """The workers that divide the heads of the same tokens among them; None without."""
    bucket_group: dist.ProcessGroup | None
    """The workers that send tokens to their sorted place among them; None without."""
    timeout: timedelta
    """How long a worker of a group waits for another one."""

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
    """Place this process; every process must call it once, since it creates the groups.

    Raises:
        ValueError: the number of processes is not a multiple of parallel.sequence_shards.
    """
    world_size, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    shards, heads = config.parallel.sequence_shards, config.parallel.head_degree
    if world_size % shards:
        raise ValueError(f"parallel.sequence_shards = {shards} does not divide the {world_size} workers; 1 works")
    timeout = timedelta(seconds=config.parallel.timeout_seconds)
    head_groups = [range(first, first + heads) for first in range(0, world_size, heads)]
    bucket_groups = [
        range(first + head, first + shards, heads) for first in range(0, world_size, shards) for head in range(heads)
    ]
    sequence_groups = [range(first, first + shards) for first in range(0, world_size, shards)]
    head_group, bucket_group = (_own_group(groups, rank, timeout) for groups in (head_groups, bucket_groups))
    sequence_group = head_group or bucket_group
    if head_group is not None and bucket_group is not None:
        sequence_group = _own_group(sequence_groups, rank, timeout)
    lengths = config.data.sequence_length, config.data.longest_source
    return Topology(world_size, rank, shards, *lengths, sequence_group, head_group, bucket_group, timeout)


def _own_group(groups: Iterable[range], rank: int, timeout: timedelta) -> dist.ProcessGroup | None:
    """Create all groups, on every process in the same order; the one that this process is in, None if it is alone."""
    own = None
    for ranks in groups:
        if len(ranks) > 1:
            group = dist.new_group(list(ranks), timeout=timeout)
            own = group if rank in ranks else own
    return own
