"""A layer's two methods: what it adds to a stream is taken off again, and both read parameters inside a module's call."""

from typing import Any

import torch
from torch import Tensor, nn

from reformer_dist.model.context import Context
from reformer_dist.model.keeping import Kept
from reformer_dist.model.reversible.layer import Layer
from reformer_dist.model.reversible.undoing import Addition, Leaves


class _Cubes(Layer):
    """Adds w x^3 to the stream, and finds the number 3."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))

    def _contribution(
        self, x_BTE: Tensor, context: Context, found: int | None, kept: Kept | None
    ) -> tuple[Tensor, int]:
        return self.weight * x_BTE**3, 3

    def _undo(
        self, x_BTE: Tensor, context: Context, found: int, addition: Addition, kept: Kept | None, leaves: Leaves
    ) -> None:
        x = x_BTE.detach().requires_grad_()
        with torch.enable_grad():
            contribution = leaves.parameters[0] * x**found
        addition.take_off(slice(None), contribution)
        (gradient,) = leaves.pull([contribution], [addition.grad_BTE], [x])
        addition.grad_input_BTE.add_(gradient)


def test_undoing_rebuilds_the_stream_and_adds_gradients() -> None:
    layer, (stream, x, grad, grad_input) = _Cubes(), torch.randn(4, 2, 3, 5, dtype=torch.float64)
    contribution, found = layer.contribute(x, Context())
    added, summed = stream + contribution.detach(), grad_input.clone()
    layer.undo(x, Context(), found, Addition(added, grad, summed))
    torch.testing.assert_close(added, stream)
    torch.testing.assert_close(summed, grad_input + 6 * x**2 * grad)
    assert layer.weight.grad is not None
    torch.testing.assert_close(layer.weight.grad, (x**3 * grad).sum())


def test_undoing_works_where_gradients_are_off_and_parameters_frozen() -> None:
    layer, (stream, x, grad, grad_input) = _Cubes().requires_grad_(False), torch.randn(4, 1, 2, 3, dtype=torch.float64)
    summed = grad_input.clone()
    with torch.no_grad():
        layer.undo(x, Context(), 3, Addition(stream.clone(), grad, summed))
    torch.testing.assert_close(summed, grad_input + 6 * x**2 * grad)
    assert layer.weight.grad is None


def test_parameters_are_read_within_calls_of_the_module() -> None:
    """ZeRO-3 gathers them before a call, and before the backward pass of what it returned; see `Layer`."""
    layer, x = _Cubes(), torch.ones(1, 1, 1, dtype=torch.float64)
    calls: list[Any] = []
    layer.register_forward_hook(lambda module, inputs, output: calls.append(output))
    layer.contribute(x, Context())
    assert len(calls) == 1
    layer.undo(x, Context(), 3, Addition(x.clone(), x, x.clone()))
    assert len(calls) == 2
    assert calls[1].dim() == 0
    assert calls[1].requires_grad
