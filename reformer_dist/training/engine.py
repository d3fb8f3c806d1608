"""DeepSpeed around the model: the only file that imports it.

In: a ReformerLM (already parallelised), the configuration and micro-batches. Out: exact gradients of the mean loss over
all tokens of a step, optimizer steps, validation sums, full weights and this worker's part of the optimizer state.

To DeepSpeed every worker is data parallel, those of one sequence group too: it averages gradients over all workers, so
a loss *sum* scaled by world_size / global token count becomes the gradient of the global mean, however unevenly the
tokens are spread.
"""

import logging
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor, nn

from reformer_dist.checkpoints import optimizer_state
from reformer_dist.config import Config, OptimizerConfig
from reformer_dist.data.feeding.batch import Batch
from reformer_dist.model.reformer import ReformerLM


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
    if config.parallel.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": config.train.use_gpu}
    return {
        "train_micro_batch_size_per_gpu": config.train.micro_batch_size,
        "gradient_accumulation_steps": num_micro_batches(config),
        "gradient_clipping": config.optimizer.max_grad_norm if stage else 0.0,
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,  # torch's AdamW steps on the CPU too, and needs no compiler
        "steps_per_print": None,
    }


def num_micro_batches(config: Config) -> int:
    """Micro-batches that each worker accumulates in a step."""
    return math.ceil(config.train.batch_size / config.data_groups / config.train.micro_batch_size)


def learning_rate(config: OptimizerConfig, step: int, num_steps: int) -> float:
    """Learning rate of a step, counted from zero, of a run of `num_steps` steps."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / (config.warmup_steps + 1)
    if config.schedule == "constant":
        return config.learning_rate
    done = min(1.0, (step - config.warmup_steps) / max(1, num_steps - 1 - config.warmup_steps))
    left = 1.0 - done if config.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
    return config.learning_rate * (config.final_fraction + (1.0 - config.final_fraction) * left)


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW whose weight decay leaves out biases, norms and position embeddings."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (decayed if parameter.ndim >= 2 and "position" not in name else plain).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, eps=config.eps)


class LossModule(nn.Module):
    """What DeepSpeed wraps: a batch in, the model's loss sum out, so that ZeRO-3 gathers the weights in between."""

    def __init__(self, model: ReformerLM, dtype: str) -> None:
        super().__init__()
        self.model = model
        self.autocast = dtype == "bfloat16"

    def forward(self, batch: Batch, step: int) -> Tensor:
        """Sum of the losses of this worker's labels, in nats, a scalar."""
        with torch.autocast(batch.tokens_BT.device.type, dtype=torch.bfloat16, enabled=self.autocast):
            loss_sum, _ = self.model.loss(
                batch.tokens_BT,
                batch.labels_BT,
                batch.positions_BT,
                batch.documents_BT,
                step=step,
                first_row=batch.first_row,
                first_position=batch.first_position,
            )
        return loss_sum


class Engine:
    """One worker's end of the training step. Every method is collective: all workers call it together."""

    def __init__(self, model: ReformerLM, config: Config, device: torch.device) -> None:
        """Wrap `model`, which is moved to `device` and, for float64, converted.

        torch.distributed must be initialised, with gloo for a CPU and NCCL for a GPU.
        """
        self.config = config
        self.device = device
        self.model = model.to(device, dtype=torch.float64 if config.train.dtype == "float64" else None)
        self.optimizer = make_optimizer(self.model, config.optimizer)
        module = LossModule(self.model, config.train.dtype)
        self.deepspeed = _initialize(module, self.optimizer, config)
        self._grad_norm: Tensor | float = math.nan

    def train_step(self, batches: Sequence[Batch], step: int) -> Tensor:
        """One optimizer step over this worker's micro-batches.

        Returns:
            float64 [2] on the device: this worker's loss sum (nats) and the number of tokens over all workers. Nothing
            here waits for the device; reading the result does.
        """
        num_tokens = torch.tensor(sum(batch.num_tokens for batch in batches), dtype=torch.float64, device=self.device)
        dist.all_reduce(num_tokens)
        scale = dist.get_world_size() / num_tokens.clamp(min=1.0)
        loss_total = torch.zeros((), dtype=torch.float64, device=self.device)
        self._set_learning_rate(step)
        self.deepspeed.train()
        for batch in batches:
            loss_sum = self.deepspeed(batch.to(self.device), step)
            self.deepspeed.backward(loss_sum * scale.to(loss_sum.dtype), scale_wrt_gas=False)
            loss_total += loss_sum.detach()
            if self.config.parallel.zero_stage == 0 and self.deepspeed.is_gradient_accumulation_boundary():
                self._clip_unpartitioned()
            self.deepspeed.step()
        return torch.stack([loss_total, num_tokens])

    def evaluate(self, batches: Iterable[Batch]) -> tuple[float, int]:
        """Loss sum (nats) and number of tokens of `batches` over all workers, without dropout."""
        total = torch.zeros(2, dtype=torch.float64, device=self.device)
        self.deepspeed.eval()
        with torch.no_grad():
            for batch in batches:
                total[0] += self.deepspeed(batch.to(self.device), 0).detach()
                total[1] += batch.num_tokens
        dist.all_reduce(total)
        return float(total[0]), int(total[1])

    def grad_norm(self) -> Tensor | float:
        """2-norm of the last step's gradient of the mean loss, over all weights, before clipping; a scalar."""
        norm: Tensor | float = (
            self.deepspeed.get_global_grad_norm() if self.config.parallel.zero_stage else self._grad_norm
        )
        return norm

    def copy_weights(self, copies: dict[str, Tensor]) -> None:
        """Copy the whole model's weights to the CPU, by their names in ReformerLM; on rank 0 only.

        Args:
            copies: the result. Memory of an earlier call's is used again.
        """
        parameters = list(self.model.parameters())
        with _deepspeed().zero.GatheredParameters(parameters, enabled=self.config.parallel.zero_stage == 3):
            if dist.get_rank() == 0:
                for name, value in self.model.state_dict().items():
                    optimizer_state.copy_to(copies, name, value)

    def copy_state(self, copies: dict[str, Tensor]) -> None:
        """Copy this worker's part of the optimizer's state to the CPU, as `copy_weights` does; see optimizer_state.py."""
        replicated = self.config.parallel.zero_stage == 0
        optimizer_state.snapshot(self._shares(), self.optimizer, replicated, copies)

    def load_state(self, folder: Path, step: int) -> None:
        """Take the optimizer's state after so many steps from files of `copy_state`, of any stage and workers.

        The weights are not part of it: the model has them before it is wrapped.
        """
        optimizer_state.load(folder, self._shares(), self.optimizer, step)
        if self.config.parallel.zero_stage in (1, 2):
            self.deepspeed.optimizer._lazy_init_hp_params_optimizer_state()

    def _shares(self) -> Iterator[optimizer_state.Share]:
        return optimizer_state.shares(self.model, self.deepspeed, self.config.parallel.zero_stage)

    def _set_learning_rate(self, step: int) -> None:
        rate = learning_rate(self.config.optimizer, step, self.config.train.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def _clip_unpartitioned(self) -> None:
        """At stage 0, where every worker holds all gradients; DeepSpeed has averaged them, except in float64."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        if self.config.train.dtype == "float64":
            for gradient in gradients:
                dist.all_reduce(gradient.div_(dist.get_world_size()))
        self._grad_norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optimizer.max_grad_norm)


def _initialize(module: nn.Module, optimizer: torch.optim.Optimizer, config: Config) -> Any:
    deepspeed = _deepspeed()
    zero = config.parallel.zero_stage > 0
    num_weights = sum(parameter.numel() for parameter in module.parameters())
    with _float64(zero and config.train.dtype == "float64"), _without_muon(config.parallel.zero_stage):
        engine, *_ = deepspeed.initialize(
            model=module, optimizer=optimizer, config=deepspeed_config(config, num_weights)
        )
    if config.train.dtype == "float64" and not zero:
        engine.enable_backward_allreduce = False  # it refuses float64; see Engine._clip_unpartitioned
    return engine


def _deepspeed() -> Any:
    """The library, imported late and quietly."""
    with _unimportable("mlflow"):  # its autotuner's wish, which would double the time that a worker takes to start
        import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # Its shared-memory all-reduce is for inference only; left on, every node compiles it with g++ at its first use.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


@contextmanager
def _without_muon(stage: int) -> Iterator[None]:
    """Spare the import of an optimizer that loads torch's compiler; stage 3 insists on it."""
    if stage == 3:
        yield
        return
    with _unimportable("deepspeed.runtime.zero.muon.muon_optimizer"):
        yield


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

    Only the norm, and so the factor of clipping, stays float32.
    """
    if not wanted:
        yield
        return
    from deepspeed.runtime import base_optimizer, config, engine

    float64 = torch.float64
    with (
        mock.patch.object(engine.DeepSpeedEngine, "get_data_types", return_value=(float64, float64)),
        mock.patch.object(config, "get_communication_data_type", return_value=float64),
        mock.patch.object(base_optimizer.ZeROOptimizer, "_configure_master_weights", _float64_master_weights),
    ):
        yield


def _float64_master_weights(optimizer: Any, **_: Any) -> torch.dtype:
    optimizer.fp16_master_weights_and_gradients = False
    optimizer.bf16_master_weights_and_gradients = False
    optimizer.bf16_optimizer_states = False
    return torch.float64
