"""The optimizer's state by parameter name, whatever the ZeRO stage and the number of workers.

In: a DeepSpeed engine and its optimizer. Out: tensors for one safetensors file a worker, or the same state in another
engine.

ZeRO flattens parameters and gives every worker a stretch of the flat tensor. A *share* is what a worker has of one
parameter: the values from element `start` on. Each worker writes its shares; on reading, a worker takes from all files
what overlaps its own, so a checkpoint of 4 workers at stage 3 goes on with 3 workers at stage 1. Nothing is gathered and
nothing is pickled. DeepSpeed has no public name for where the shares lie; `shares` is the one function that knows.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from safetensors import safe_open
from torch import Tensor, nn

MOMENTS = ("exp_avg", "exp_avg_sq", "momentum_buffer")
"""AdamW's two tensors and Muon's, each of its parameter's shape."""


@dataclass(frozen=True)
class Share:
    """What this worker has of one parameter's optimizer state.

    Attributes:
        name: the parameter's name in ReformerLM.
        start: its first element here, counted in the flattened parameter.
        size: elements here.
        flat: the tensor that the optimizer knows.
        offset: where the share begins in `flat`, flattened.
    """

    name: str
    start: int
    size: int
    flat: Tensor
    offset: int

    def of(self, state: Tensor) -> Tensor:
        """The share of a tensor that has the shape of `flat`, as a view [size]."""
        return state.view(-1)[self.offset : self.offset + self.size]


def whole(model: nn.Module) -> Iterator[Share]:
    """What a worker has without ZeRO: all of every parameter; frozen ones have no share."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield Share(name, 0, parameter.numel(), parameter, 0)


def shares(model: nn.Module, deepspeed: Any, stage: int) -> Iterator[Share]:
    """All shares of this worker, in the order of the model's parameters; frozen parameters have none."""
    if stage == 0:
        yield from whole(model)
        return
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        place = cast(Any, parameter)
        if stage == 3:
            zero = deepspeed.optimizer
            group, offset, size = zero.grad_position[zero.get_param_id(parameter)]
            start = dist.get_rank() * size
            size = min(size, place.ds_numel - start)  # the last worker's is padded
            if size > 0:
                yield Share(name, start, size, zero.fp32_partitioned_groups_flat[group], offset)
        elif (mapping := place._hp_mapping) is not None:
            flat = deepspeed.optimizer.single_partition_of_fp32_groups[mapping.param_group_index]
            lies, reaches = mapping.lp_fragment_address, mapping.hp_fragment_address
            yield Share(name, lies.start, lies.numel, flat, reaches.start)


def copy_to(copies: dict[str, Tensor], name: str, value: Tensor) -> None:
    """Copy a tensor to the CPU, into the memory of its last copy if there is one: fresh memory is several times slower."""
    if name not in copies:
        copies[name] = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
    copies[name].copy_(value.detach())


def snapshot(
    held: Iterator[Share], optimizer: torch.optim.Optimizer, replicated: bool, copies: dict[str, Tensor]
) -> None:
    """Copy this worker's shares of the moments to the CPU, for a safetensors file of its own.

    Args:
        held: this worker's shares.
        optimizer: AdamW or Muon, which may not have stepped yet.
        replicated: every worker holds all (stage 0): this one gives its share of each.
        copies: the result, with what an earlier call has left there.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    for share in held:
        state = optimizer.state.get(share.flat, {})
        first = share.size * rank // world_size if replicated else 0
        last = share.size * (rank + 1) // world_size if replicated else share.size
        for moment in MOMENTS:
            if moment in state and first < last:
                key = f"{share.name}:{share.start + first}:{moment}"
                copy_to(copies, key, share.of(state[moment])[first:last])


def load(folder: Path, held: Iterator[Share], optimizer: torch.optim.Optimizer, step: int) -> None:
    """Give an optimizer that has not stepped yet the moments in a folder's files and the number of steps done.

    Args:
        folder: of files with what `snapshot` copied, of any number of workers at any stage.
        held: this worker's shares.
        optimizer: AdamW or Muon, the one whose moments are stored.
        step: optimizer steps done.

    Raises:
        ValueError: the files lack a part of a parameter whose moments they hold.
    """
    with ExitStack() as stack:
        files = [stack.enter_context(safe_open(path, "pt")) for path in sorted(folder.glob("*.safetensors"))]
        index: dict[tuple[str, str], list[tuple[int, Any, str]]] = {}
        for file in files:
            for key in file.keys():  # noqa: SIM118 - not a mapping
                name, start, moment = key.rsplit(":", 2)
                index.setdefault((name, moment), []).append((int(start), file, key))
        for share in held:
            for moment in MOMENTS:
                if stored := index.get((share.name, moment)):
                    state = optimizer.state[share.flat]
                    state.setdefault("step", torch.tensor(float(step)))  # AdamW's; Muon does not count
                    _fill(share, state.setdefault(moment, torch.zeros_like(share.flat)), stored)


def _fill(share: Share, state: Tensor, stored: list[tuple[int, Any, str]]) -> None:
    """Copy what overlaps the share; only that is read."""
    target, found = share.of(state), 0
    for start, file, key in stored:
        source = file.get_slice(key)
        low = max(start, share.start)
        high = min(start + source.get_shape()[0], share.start + share.size)
        if low < high:
            target[low - share.start : high - share.start] = source[low - start : high - start].to(target.device)
            found += high - low
    if found != share.size:
        raise ValueError(f"{share.name}: {found} of {share.size} elements of the optimizer's state are stored")
