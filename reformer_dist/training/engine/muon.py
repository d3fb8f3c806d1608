"""Muon (Jordan et al. 2024) for matrices with AdamW for other weights, whoever holds which part of them.

In: gradients and what this worker holds of the weights. Out: a step that is the same at every ZeRO stage.

Muon's update is its momentum made orthogonal. The momentum is elementwise, so a worker keeps that of its own shares; to
make a matrix orthogonal takes all of it, which `matrix_exchange.py` brings to one worker, and the result back.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from reformer_dist.checkpoints.optimizer_state import Share
from reformer_dist.training.engine.matrix_exchange import MatrixExchange

NUM_ITERATIONS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of x, x^3 and x^5 in an iteration, torch.optim.Muon's: small singular values rise fast and end between 0.7 and 1.2."""
SMALLEST_NORM = 1e-7


def orthogonalize(matrix: Tensor) -> Tensor:
    """U V^T for a matrix U S V^T, nearly: singular values end near one, not at it (Newton-Schulz, five iterations).

    All is computed in the matrix's dtype. torch.optim.Muon rounds to bfloat16, which is faster on a GPU; but sums that are
    added in another order with another number of workers would then be rounded to other numbers, 2^-9 apart, and a
    training would take another curve on every grid.

    Args:
        matrix: [rows, columns], float32 or float64.

    Returns:
        [rows, columns], a new tensor.
    """
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if is_tall else matrix
    x = x / x.norm().clamp(min=SMALLEST_NORM)
    a, b, c = COEFFICIENTS
    for _ in range(NUM_ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T.contiguous() if is_tall else x


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay as in torch.optim.Muon, and an AdamW for the other weights.

    The state of a matrix's flat tensor is `momentum_buffer`; that of other weights is AdamW's.

    Attributes:
        exchange: brings matrices together; None before the first step.
    """

    def __init__(
        self,
        matrices: Mapping[str, nn.Parameter],
        adamw: torch.optim.AdamW,
        held: Callable[[], Iterable[Share]],
        learning_rate: float,
        momentum: float,
        weight_decay: float,
    ) -> None:
        """Make one optimizer of matrices by name and of `adamw`, whose groups become the first of this one.

        Args:
            matrices: whole parameters, on the device where they are to be made orthogonal.
            adamw: of all other weights.
            held: what this worker holds of parameters, once ZeRO has divided them; those that are no matrices are ignored.
            learning_rate: peak rate of the matrices.
            momentum: decay rate of the moment.
            weight_decay: of the matrices.
        """
        group = {
            "params": list(matrices.values()),
            "lr": learning_rate,
            "peak_lr": learning_rate,
            "momentum": momentum,
            "weight_decay": weight_decay,
        }
        super().__init__([*adamw.param_groups, group], {})
        self.exchange: MatrixExchange | None = None
        self._adamw = adamw
        self._held = held
        self._shares: list[Share] = []
        self._shapes = {name: matrix.shape for name, matrix in matrices.items()}
        self._like = next(iter(matrices.values())).detach().new_empty(0)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of the groups that are there now: ZeRO 1 to 3 makes a call for each."""
        for group in self.param_groups:
            if "momentum" in group and group["params"]:
                self._step_matrices(group)
        self._adamw.state = self.state
        self._adamw.param_groups = [group for group in self.param_groups if "momentum" not in group]
        self._adamw.step()

    def _step_matrices(self, group: dict[str, Any]) -> None:
        exchange = self.exchange or self._meet()
        for flat in group["params"]:
            self._moment(flat).lerp_(flat.grad, 1.0 - group["momentum"])
            flat.mul_(1.0 - group["lr"] * group["weight_decay"])
        sent = [share for share in self._shares if exchange.sends(share.name)]
        whole = exchange.to_owners({share.name: self._direction(share, group["momentum"]) for share in sent})
        results = {name: _scaled(orthogonalize(whole.pop(name))) for name in list(whole)}  # no matrix is there twice
        updates = exchange.from_owners(results)
        for share in self._shares:
            share.of(share.flat).add_(updates[share.name].to(share.flat.device), alpha=-group["lr"])

    def _direction(self, share: Share, momentum: float) -> Tensor:
        """Nesterov's: the moment as it would be after this gradient came once more, [size]."""
        gradient = share.flat.grad
        assert gradient is not None, f"{share.name} has no gradient"
        return share.of(gradient).lerp(share.of(self._moment(share.flat)), momentum)

    def _moment(self, flat: Tensor) -> Tensor:
        state = self.state[flat]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(flat)
        moment: Tensor = state["momentum_buffer"]
        return moment

    def _meet(self) -> MatrixExchange:
        """Tell the other workers what this one holds."""
        self._shares = [share for share in self._held() if share.name in self._shapes]
        stretches = {share.name: (share.start, share.size) for share in self._shares}
        self.exchange = MatrixExchange(self._shapes, stretches, self._like)
        return self.exchange


def _scaled(update: Tensor) -> Tensor:
    """Entries of about the size that they have in a square matrix, where the matrix is tall."""
    return update.mul_(math.sqrt(max(1.0, update.shape[0] / update.shape[1])))
