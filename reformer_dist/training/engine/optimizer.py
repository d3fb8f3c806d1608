"""The optimizer and its schedule, in plain torch.

In: a model and the optimizer section. Out: AdamW, or Muon beside it, and the learning rate of every step.
"""

import inspect
import math
from collections.abc import Callable, Iterable
from types import FunctionType
from typing import Any

import torch
from torch import nn

from reformer_dist.checkpoints.optimizer_state import Share
from reformer_dist.config import OptimizerConfig
from reformer_dist.training.engine.muon import Muon


def share_of_peak(config: OptimizerConfig, step: int, num_steps: int) -> float:
    """Every learning rate of a step, counted from zero, of a run of `num_steps` steps, as a share of its peak."""
    if step < config.warmup_steps:
        return (step + 1) / (config.warmup_steps + 1)
    if config.schedule == "constant":
        return 1.0
    last = num_steps - 1
    start: float = config.warmup_steps
    if config.schedule == "wsd":
        start = max(start, (1.0 - config.decay_share) * last)
    done = min(1.0, max(0.0, step - start) / max(1, last - start))
    left = 0.5 * (1.0 + math.cos(math.pi * done)) if config.schedule == "cosine" else 1.0 - done
    return config.final_fraction + (1.0 - config.final_fraction) * left


def learning_rate(config: OptimizerConfig, step: int, num_steps: int) -> float:
    """AdamW's learning rate of a step."""
    return config.learning_rate * share_of_peak(config, step, num_steps)


def set_learning_rates(optimizer: torch.optim.Optimizer, config: OptimizerConfig, step: int, num_steps: int) -> None:
    """Give every group of an optimizer of `make_optimizer` its learning rate of a step."""
    share = share_of_peak(config, step, num_steps)
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * share


def make_optimizer(
    model: nn.Module, config: OptimizerConfig, held: Callable[[], Iterable[Share]]
) -> torch.optim.AdamW | Muon:
    """AdamW, or Muon with AdamW inside; each group of weights has its peak rate as `peak_lr`.

    Weight decay leaves out biases, norms, convolutions and position embeddings.

    Args:
        model: what is trained, on its device and in its dtype.
        config: which optimizer, and its settings.
        held: what this worker holds of the optimizer's state; Muon asks at its first step.
    """
    _spare_compiler()
    matrices: dict[str, nn.Parameter] = {}
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if config.name == "muon" and _is_layer_matrix(name, parameter):
            matrices[name] = parameter
        else:
            (decayed if parameter.ndim == 2 and "position" not in name else plain).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    adamw = _AdamW(groups, lr=config.learning_rate, betas=config.betas, eps=config.eps)
    for group in adamw.param_groups:
        group["peak_lr"] = config.learning_rate
    if config.name == "adamw":
        return adamw
    return Muon(matrices, adamw, held, config.matrix_learning_rate, config.momentum, config.weight_decay)


class _AdamW(torch.optim.AdamW):
    """Torch's, without the marks for torch's compiler around its step; see `_spare_compiler`."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step."""
        return inspect.unwrap(torch.optim.Adam.step)(self, closure)


def _spare_compiler() -> None:
    """Tell torch's optimizers that their functions are kept from its compiler.

    The first call of each would see to that, and import the compiler for it, which takes a worker more than a second.
    """
    for function in vars(torch.optim.Optimizer).values():
        if isinstance(function, FunctionType) and "disable_dynamo" in function.__code__.co_qualname:
            kept_from_it = inspect.unwrap(function)
            kept_from_it.__dict__.setdefault("__dynamo_disable", kept_from_it)


def _is_layer_matrix(name: str, parameter: nn.Parameter) -> bool:
    is_of_layer = name.removeprefix("encoder.").startswith("stack.")
    return is_of_layer and parameter.ndim == 2 and parameter.requires_grad
