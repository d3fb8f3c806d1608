"""Whether there is room for the workers: on this machine, or on a cluster that runs."""

import os

import psutil
import torch

from reformer_dist.config import Config
from reformer_dist.config.sections.model import KEEP_LEVELS
from reformer_dist.errors import ConfigError
from reformer_dist.planning.known import Known
from reformer_dist.planning.memory.formula import held_memory, step_memory, update_memory
from reformer_dist.planning.memory.parts import Work

WORKERS_PER_CORE = 4
"""Workers that may share a core; those of an elastic training have one each, so that Ray can count them."""


def machine(config: Config, known: Known) -> None:
    """Whether this machine can hold the workers, if the job is to start a Ray here."""
    if known.joins:
        return
    if config.train.use_gpu:
        _raise(_gpu_problem(config, torch.cuda.device_count(), "this machine"))
    else:
        cores = os.cpu_count() or 1
        _raise(_core_problem(config, cores, "this machine's", "cores", ", or join a cluster with RAY_ADDRESS"))


def cluster(config: Config, known: Known) -> None:
    """Whether the Ray that runs has CPUs and GPUs for the workers."""
    cpus, gpus = (int(known.resources.get(name, 0)) for name in ("CPU", "GPU"))
    _raise(
        _gpu_problem(config, gpus, "the cluster") if config.train.use_gpu else None,
        _core_problem(config, cpus, "the cluster's", "CPUs", ""),
    )


def memory(config: Config, known: Known) -> None:
    """Whether this machine's memory holds a step of all workers on its CPU, as far as the formula counts such a model.

    What is counted is the least that they take: processes hold more than tensors.
    """
    if known.joins or config.train.use_gpu or machine in known.failed:
        return
    available = psutil.virtual_memory().total
    needed = _least_memory(config)
    if needed is None or needed <= available:
        return
    shorter = _halved(config)
    while shorter is not None and (_least_memory(shorter) or 0) > available:
        shorter = _halved(shorter)
    works = "a smaller model works" if shorter is None else f"{_lengths(shorter)} works"
    raise ConfigError(
        f"{_lengths(config)}: a step of {config.train.min_workers} workers takes at least"
        f" {needed / 2**30:,.1f} GiB of memory, and this machine has {available / 2**30:,.1f}; {works},"
        " or join a cluster with RAY_ADDRESS"
    )


def keep(config: Config, known: Known) -> None:
    """Whether the formula counts the model, if it is to choose what layers keep."""
    if "auto" not in config.model.keep:
        return
    try:
        step_memory(Work.of(config.with_workers(config.train.min_workers)))
    except ValueError as error:
        raise ConfigError(f"model.keep = auto: {error}, or one of {', '.join(KEEP_LEVELS)}") from None


def _least_memory(config: Config) -> int | None:
    """Bytes that the workers of a training take together, without what a process holds besides; None if not counted."""
    workers = config.train.min_workers
    try:
        at_least = config.with_workers(workers)
        step = step_memory(Work.of(at_least)).parts.total
    except ValueError:  # a model or a grid that the formula does not count
        return None
    return workers * (max(step, update_memory(at_least)) + held_memory(at_least).total)


def _lengths(config: Config) -> str:
    """The lengths of sequences and sources, as far as they were given."""
    data = config.data
    source = "" if data.source_length is None else f" with data.source_length = {data.source_length}"
    return f"data.sequence_length = {data.sequence_length}{source}"


def _halved(config: Config) -> Config | None:
    """The same with lengths half as long; None where one would be nothing."""
    data = config.data
    lengths = {"sequence_length": data.sequence_length, "source_length": data.source_length}
    shorter = {name: length // 2 for name, length in lengths.items() if length is not None}
    if not all(shorter.values()):
        return None
    return config.model_copy(update={"data": data.model_copy(update=shorter)})


def _raise(*problems: str | None) -> None:
    if found := [problem for problem in problems if problem is not None]:
        raise ConfigError(*found)


def _core_problem(config: Config, cores: int, whose: str, unit: str, otherwise: str) -> str | None:
    elastic = not isinstance(config.train.workers, int)
    each = 1 if elastic else WORKERS_PER_CORE
    if config.train.min_workers <= each * cores:
        return None
    works = f"{each * cores},{config.train.max_workers}" if elastic else each * cores
    return f"{_workers(config)} is more than {each} for each of {whose} {cores} {unit}; {works} works{otherwise}"


def _gpu_problem(config: Config, gpus: int, place: str) -> str | None:
    if gpus == 0:
        return f"train.use_gpu = true, but {place} has no GPU; false works"
    if config.train.min_workers <= gpus:
        return None
    works = gpus if isinstance(config.train.workers, int) else f"{gpus},{config.train.max_workers}"
    return f"{_workers(config)} need a GPU each, and {place} has {gpus}; {works} works"


def _workers(config: Config) -> str:
    """The field as it was given; of an elastic training the least number is what must be there."""
    workers = config.train.workers
    return f"train.workers = {workers if isinstance(workers, int) else ','.join(map(str, workers))}"
