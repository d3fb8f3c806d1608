"""What layers keep in training, where `model.keep` leaves it to the memory that there is.

In: a worker's configuration and device. Out: the configuration with a level for each layer, the same on all workers, and a
line that says which.
"""

import os
from collections.abc import Sequence

import psutil
import torch
import torch.distributed as dist

from reformer_dist.config import Config
from reformer_dist.config.sections.model import KeepLevel
from reformer_dist.planning.memory.fitting import fit_keep
from reformer_dist.planning.memory.formula import held_memory, step_memory
from reformer_dist.planning.memory.parts import Work

GIB = 2**30
FREE_SHARE = 0.8
"""Of free memory that workers take together; the rest is for what tensors do not hold, and for others."""


def with_keep(config: Config, device: torch.device) -> tuple[Config, str | None]:
    """Choose what layers keep, if that is to be chosen; every worker calls this, before it has made a model."""
    if "auto" not in config.model.keep:
        given = config.train.memory_gib
        if given is None:
            return config, None
        return (
            config,
            f"train.memory_gib = {given:g} is for model.keep = auto; model.keep is {','.join(config.model.keep)}",
        )
    limit = torch.tensor(_room(config, device) - held_memory(config).total, device=device)
    if dist.get_world_size() > 1:  # all do the same, or some would wait for what the others do not send
        dist.all_reduce(limit, dist.ReduceOp.MIN)
    chosen = fit_keep(Work.of(config), int(limit))
    model = config.model.model_copy(update={"keep": chosen})
    config = config.model_copy(update={"model": model})
    step = step_memory(Work.of(config)).parts.total
    return config, f"layers keep {_told(chosen)}: a step takes {step / GIB:,.2f} of {int(limit) / GIB:,.2f} GiB"


def _room(config: Config, device: torch.device) -> int:
    """Bytes that a worker may take beside what its process holds now."""
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        return min(free, _limit(config, free))
    workers = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    free = int(psutil.virtual_memory().available * FREE_SHARE) // workers
    held = psutil.Process().memory_info().rss
    return min(free, _limit(config, free + held) - held)


def _limit(config: Config, otherwise: int) -> int:
    given = config.train.memory_gib
    return otherwise if given is None else int(given * GIB)


def _told(levels: Sequence[KeepLevel]) -> str:
    """Levels with the number of layers that have them, in the order of the first."""
    counts = {level: levels.count(level) for level in dict.fromkeys(levels)}
    if len(counts) == 1:
        return levels[0]
    return " and ".join(f"{level} (of {count} layers)" for level, count in counts.items())
