"""Differentiable exchanges between the workers of a group.

In and out: tensors of equal shape on every worker. The gradient of an exchange is the reverse exchange.

Legend: P workers of the group.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def all_to_all(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Send x[p] to worker p; the result's [p] is what worker p sent. [P, ...] -> [P, ...]."""
    return _AllToAll.apply(x, group)


def all_gather(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Every worker's tensor, [P, ...]; no gradient."""
    gathered = x.new_empty(dist.get_world_size(group), *x.shape)
    dist.all_gather(list(gathered.unbind()), x.contiguous(), group=group)
    return gathered


class _AllToAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        received = torch.empty_like(x, memory_format=torch.contiguous_format)
        dist.all_to_all_single(received, x.contiguous(), group=group)
        return received

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _AllToAll.apply(grad, ctx.group), None
