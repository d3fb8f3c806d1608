"""Processes that read long prompts together with this one, which then goes on alone.

In: a model and how many workers. Out: a function that reads a prompt. The workers are Ray actors, of which each holds the
model and its shard of a prompt; with this process they form one group of gloo.
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import ray
import torch.distributed as dist
from torch import Tensor

from reformer_dist.config import Config, ModelConfig, load_config
from reformer_dist.errors import ConfigError
from reformer_dist.generation.decoding import Decoder, Read, read_alone
from reformer_dist.generation.sharded_prompts import read_sharded
from reformer_dist.model.reformer import ReformerLM
from reformer_dist.parallel.parallelize import parallelize
from reformer_dist.parallel.topology import make_topology
from reformer_dist.ray_session import ray_session

LEAST_TOKENS = 512
"""Of a shard; a shorter prompt is read by one process."""
TIMEOUT = timedelta(minutes=10)


def check_workers(model: ModelConfig, workers: int) -> None:
    """Raise ConfigError for workers that cannot share a sequence of the model."""
    whole = "full" in model.layers or "window" not in (model.lsh_mode, model.local_mode)
    if whole and model.num_heads % workers:
        works = max(number for number in range(1, workers) if model.num_heads % number == 0)
        raise ConfigError(
            f"generation.workers = {workers} does not divide model.num_heads = {model.num_heads}, as full layers need it;"
            f" {works} works"
        )


@contextmanager
def readers(model: ReformerLM, workers: int) -> Iterator[Read]:
    """Read in this process and in `workers - 1` others, which end with the block.

    Raises:
        ConfigError: the cluster has too few CPUs, or the workers cannot share a sequence.
    """
    if workers == 1:
        yield read_alone(model)
        return
    check_workers(model.config, workers)
    with ray_session(), _read_together(model, workers) as read:
        yield read


@contextmanager
def _read_together(model: ReformerLM, workers: int) -> Iterator[Read]:
    has = int(ray.cluster_resources().get("CPU", 0))
    if workers > has:
        raise ConfigError(f"generation.workers = {workers}: there are {has} CPUs; {has} works")
    address = f"tcp://{ray.util.get_node_ip_address()}:{_free_port()}"
    make: Any = ray.remote(_Worker)
    shared = ray.put(model)
    others = [make.options(num_cpus=1).remote(shared, rank, workers, address) for rank in range(1, workers)]
    try:
        own = _Worker(model, 0, workers, address)

        def read(prompt_T: Tensor) -> tuple[Decoder, Tensor]:
            if len(prompt_T) < workers * LEAST_TOKENS:
                return read_alone(model)(prompt_T)
            pending = [other.read.remote(prompt_T) for other in others]
            found = own.read(prompt_T)
            ray.get(pending)
            assert found is not None
            return found

        yield read
    finally:
        for other in others:
            ray.kill(other)
        if dist.is_initialized():
            dist.destroy_process_group()


class _Worker:
    """One of those that read together."""

    def __init__(self, model: ReformerLM, rank: int, workers: int, address: str) -> None:
        self._model, self._rank, self._workers = model, rank, workers
        dist.init_process_group("gloo", init_method=address, rank=rank, world_size=workers, timeout=TIMEOUT)

    def read(self, prompt_T: Tensor) -> tuple[Decoder, Tensor] | None:
        """Its shard; on the first worker what `read_sharded` returns."""
        topology = make_topology(_config(self._model.config, self._workers, len(prompt_T)))
        sharded = self._model.with_settings()
        parallelize(sharded, topology)
        return read_sharded(sharded, prompt_T, topology)


def _config(model: ModelConfig, workers: int, length: int) -> Config:
    """How the workers share a sequence: by heads where they divide them, else by buckets."""
    attention = "buckets" if model.num_heads % workers else "heads"
    parallel = {"sequence_shards": workers, "attention": attention}
    return load_config(
        None,
        {
            "model": {"max_length": model.max_length, "num_heads": model.num_heads, "layers": model.layers},
            "data": {"sequence_length": length},
            "parallel": parallel,
            "train": {"workers": workers},
        },
    )


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("", 0))
        port: int = free.getsockname()[1]
    return port
