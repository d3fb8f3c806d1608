"""The engine: one worker's training step around DeepSpeed, which `deepspeed_setup` makes.

In: a TokenModel (already parallelised), an objective, the configuration and micro-batches. Out: exact gradients of the mean
loss over all labels of a step, optimizer steps, sums of held-out scores, full weights and this worker's part of the
optimizer state.

To DeepSpeed every worker is data parallel, those of one sequence group too: it averages gradients over all workers, so
a loss *sum* scaled by world_size / global label count becomes the gradient of the global mean, however unevenly the
labels are spread.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from reformer_dist.checkpoints import optimizer_state
from reformer_dist.config import Config
from reformer_dist.data.feeding.batch import Batch
from reformer_dist.model.token_model import TokenModel
from reformer_dist.objectives.objective import Objective
from reformer_dist.training.engine.deepspeed_setup import gathered, initialize
from reformer_dist.training.engine.optimizer import make_optimizer, set_learning_rates


class ModelCall(nn.Module):
    """What DeepSpeed wraps: a function of the model and a batch, called inside, where ZeRO-3 has gathered the weights."""

    def __init__(self, model: TokenModel, dtype: str) -> None:
        super().__init__()
        self.model = model
        self.autocast = dtype == "bfloat16"

    def forward(self, function: Callable[[TokenModel, Batch], Tensor], batch: Batch) -> Tensor:
        """The function's result, under autocast where the configuration says so."""
        with torch.autocast(batch.tokens_BT.device.type, dtype=torch.bfloat16, enabled=self.autocast):
            return function(self.model, batch)


class Engine:
    """One worker's end of the training step. Every method is collective: all workers call it together."""

    def __init__(self, model: TokenModel, objective: Objective, config: Config, device: torch.device) -> None:
        """Wrap `model`, which is to learn `objective` and is moved to `device` and, for float64, converted.

        torch.distributed must be initialised, with gloo for a CPU and NCCL for a GPU.
        """
        self.config = config
        self.objective = objective
        self.device = device
        self.model = model.to(device, dtype=torch.float64 if config.train.dtype == "float64" else None)
        self.optimizer = make_optimizer(self.model, config.optimizer, self._shares)
        self.deepspeed = initialize(ModelCall(self.model, config.train.dtype), self.optimizer, config)
        self._grad_norm: Tensor | float = math.nan

    def train_step(self, batches: Sequence[Batch], step: int) -> Tensor:
        """One optimizer step over this worker's micro-batches.

        Returns:
            float64 [3] on the device: this worker's loss sum (nats), and over all workers the labels and the tokens read.
            Nothing here waits for the device; reading the result does.
        """
        own = [sum(batch.num_tokens for batch in batches), sum(batch.num_read for batch in batches)]
        counts = torch.tensor(own, dtype=torch.float64, device=self.device)
        dist.all_reduce(counts)
        scale = dist.get_world_size() / counts[0].clamp(min=1.0)
        loss_total = torch.zeros((), dtype=torch.float64, device=self.device)
        set_learning_rates(self.optimizer, self.config.optimizer, step, self.config.train.steps)
        self.deepspeed.train()
        loss = partial(self.objective.loss, step=step)
        for batch in batches:
            loss_sum = self.deepspeed(loss, batch.to(self.device))
            self.deepspeed.backward(loss_sum * scale.to(loss_sum.dtype), scale_wrt_gas=False)
            loss_total += loss_sum.detach()
            if self.config.parallel.zero_stage == 0 and self.deepspeed.is_gradient_accumulation_boundary():
                self._clip_unpartitioned()
            self.deepspeed.step()
        return torch.cat([loss_total[None], counts])

    def evaluate(self, batches: Iterable[Batch]) -> list[float]:
        """The objective's scores of `batches`, summed over all workers, without dropout."""
        total = torch.zeros(self.objective.num_scores, dtype=torch.float64, device=self.device)
        self.deepspeed.eval()
        with torch.no_grad():
            for batch in batches:
                total += self.deepspeed(self.objective.scores, batch.to(self.device)).sum(dim=(0, 1))
        dist.all_reduce(total)
        sums: list[float] = total.tolist()
        return sums

    def grad_norm(self) -> Tensor | float:
        """2-norm of the last step's gradient of the mean loss, over all weights, before clipping; a scalar."""
        norm: Tensor | float = (
            self.deepspeed.get_global_grad_norm() if self.config.parallel.zero_stage else self._grad_norm
        )
        return norm

    def copy_weights(self, copies: dict[str, Tensor]) -> None:
        """Copy the whole model's weights to the CPU, by their names in TokenModel; on rank 0 only.

        Args:
            copies: the result. Memory of an earlier call's is used again.
        """
        parameters = list(self.model.parameters())
        with gathered(parameters, self.config.parallel.zero_stage):
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

    def _clip_unpartitioned(self) -> None:
        """At stage 0, where every worker holds all gradients; DeepSpeed has averaged them, except in float64."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        if self.config.train.dtype == "float64":
            for gradient in gradients:
                dist.all_reduce(gradient.div_(dist.get_world_size()))
        self._grad_norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optimizer.max_grad_norm)
