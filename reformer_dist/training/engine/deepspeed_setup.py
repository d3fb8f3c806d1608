"""DeepSpeed set up: the only file that imports it.

In: a module, its optimizer and the configuration. Out: DeepSpeed's engine around them, told what it has fields for and
patched where it has none.
"""

import logging
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, cast
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor, nn

from reformer_dist.config import Config


def deepspeed_config(config: Config, num_weights: int) -> dict[str, Any]:
    """What DeepSpeed is told; everything that it is not told here is its default.

    Clipping is its own at ZeRO 1 to 3, where no worker holds all gradients, and ours at stage 0. The bucket
    that it reduces gradients by is no larger than the model: it is allocated whole, and its default is 2 GB in float32.
    """
    stage = config.parallel.zero_stage
    zero: dict[str, Any] = {"stage": stage, "overlap_comm": False, "reduce_bucket_size": min(500_000_000, num_weights)}
    if config.train.dtype == "float64":
        zero["reduce_scatter"] = False  # DeepSpeed's own is float32 at most
    if stage == 3:
        zero["stage3_param_persistence_threshold"] = 0
        zero["sub_group_size"] = max(1_000_000_000, num_weights)  # Muon steps with all matrices at once
    if config.parallel.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": config.train.use_gpu}
    return {
        "train_micro_batch_size_per_gpu": config.train.micro_batch_size,
        "gradient_accumulation_steps": num_micro_batches(config),
        "gradient_clipping": config.optimizer.max_grad_norm if stage else 0.0,
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,  # torch's AdamW steps on the CPU too, and needs no compiler
        "zero_allow_untested_optimizer": True,  # Muon is ours
        "steps_per_print": None,
    }


def num_micro_batches(config: Config) -> int:
    """Micro-batches that each worker accumulates in a step."""
    return math.ceil(config.train.batch_size / config.data_groups / config.train.micro_batch_size)


def initialize(module: nn.Module, optimizer: torch.optim.Optimizer, config: Config) -> Any:
    """DeepSpeed's engine; torch.distributed must be initialised."""
    deepspeed = _deepspeed()
    zero = config.parallel.zero_stage > 0
    num_weights = sum(parameter.numel() for parameter in module.parameters())
    with _float64(zero and config.train.dtype == "float64"):
        engine, *_ = deepspeed.initialize(
            model=module, optimizer=optimizer, config=deepspeed_config(config, num_weights)
        )
    if config.train.dtype == "float64" and not zero:
        engine.enable_backward_allreduce = False  # it refuses float64; see Engine._clip_unpartitioned
    if config.train.dtype == "float64" and config.parallel.zero_stage in (1, 2):
        engine.optimizer.get_grad_norm_direct = _float64_norm  # DeepSpeed's own is float32
    return engine


def gathered(parameters: Sequence[nn.Parameter], stage: int) -> AbstractContextManager[Any]:
    """A block in which whole parameters are there at ZeRO stage 3 too."""
    context: AbstractContextManager[Any] = _deepspeed().zero.GatheredParameters(parameters, enabled=stage == 3)
    return context


def _deepspeed() -> Any:
    """The library, imported late and quietly."""
    with (
        _unimportable("mlflow"),  # its autotuner's wish, which would double the time that a worker takes to start
        mock.patch.object(torch, "compile", _as_it_is),
    ):
        import deepspeed
        import deepspeed.runtime.zero.muon.muon_optimizer  # the first step would; nobody calls what it has compiled

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # Its shared-memory all-reduce is for inference only; left on, every node compiles it with g++ at its first use.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def _as_it_is(function: Any = None, **_: Any) -> Any:
    """In place of `torch.compile`, whose first use imports the compiler: two seconds."""
    return (lambda decorated: decorated) if function is None else function


@contextmanager
def _unimportable(name: str) -> Iterator[None]:
    """Let an optional import of DeepSpeed's find nothing, unless the module is loaded already."""
    modules = cast(dict[str, Any], sys.modules)
    blocked = modules.setdefault(name, None) is None
    try:
        yield
    finally:
        if blocked:
            del modules[name]


@contextmanager
def _float64(wanted: bool) -> Iterator[None]:
    """Let ZeRO add up and reduce gradients and keep master weights in float64, for which its configuration has no word.

    With the optimizer's state offloaded the norm, and so the factor of clipping, stays float32.
    """
    if not wanted:
        yield
        return
    from deepspeed.runtime import base_optimizer, config, engine
    from deepspeed.runtime.zero.partition_parameters import InsertPostInitMethodToModuleSubClasses as Maker

    float64 = torch.float64
    with (
        mock.patch.object(engine.DeepSpeedEngine, "get_data_types", return_value=(float64, float64)),
        mock.patch.object(config, "get_communication_data_type", return_value=float64),
        mock.patch.object(base_optimizer.ZeROOptimizer, "_configure_master_weights", _float64_master_weights),
        mock.patch.object(Maker, "_set_dtype", _dtype_of_made_weights),
    ):
        yield


def _float64_norm(gradients: Sequence[Tensor], *_: Any) -> Tensor:
    """2-norm of a group's gradients over all workers, each of which has another part of them."""
    square = torch.stack([gradient.square().sum() for gradient in gradients]).sum()
    dist.all_reduce(square)
    return square.sqrt()


def _dtype_of_made_weights(maker: Any, *_: Any) -> None:
    """Of weights that stage 3 itself would make; it makes none, and refuses float64 on processors that have float16."""
    maker.dtype = torch.float32


def _float64_master_weights(optimizer: Any, **_: Any) -> torch.dtype:
    optimizer.fp16_master_weights_and_gradients = False
    optimizer.bf16_master_weights_and_gradients = False
    optimizer.bf16_optimizer_states = False
    return torch.float64
