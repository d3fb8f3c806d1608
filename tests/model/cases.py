"""Random inputs for the numerics tests, and the sizes at which attention tends to break.

`CASES` is a list for `pytest.mark.parametrize` and `random_cases()` a hypothesis strategy; both give a `Case`, whose
`inputs()` are float64 tensors drawn from its own seed. `outputs_and_gradients` makes a comparison complete.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from hypothesis import strategies as st
from torch import Tensor

Documents = Literal["none", "packed", "padded", "scattered", "blank"]


@dataclass(frozen=True)
class Inputs:
    """What an attention takes: qk, q, k, v [B, T, H, D]; rotations; documents [B, T] and keep [B, H, T, T], or None."""

    qk: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    rotations: Tensor
    documents: Tensor | None
    keep: Tensor | None


@dataclass(frozen=True)
class Case:
    """Sizes of one comparison. `num_buckets` are factors; (1,) puts all tokens in one bucket."""

    num_tokens: int
    window: int = 4
    num_buckets: tuple[int, ...] = (4,)
    num_rounds: int = 2
    causal: bool = True
    documents: Documents = "none"
    dropout: float = 0.0
    alike: bool = False
    """Give all tokens nearly the same qk, so that they hash alike whatever the rotations."""
    rotations_per_head: bool = False
    batch: int = 2
    num_heads: int = 2
    head_dim: int = 3
    seed: int = 0

    def __str__(self) -> str:
        changed = (f.name for f in dataclasses.fields(self) if getattr(self, f.name) != f.default)
        return ",".join(f"{name}={getattr(self, name)}" for name in changed).replace(" ", "")

    def inputs(self) -> Inputs:
        """Draw the tensors; the same case draws the same ones."""
        generator = torch.Generator().manual_seed(self.seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        B, T, H, D = self.batch, self.num_tokens, self.num_heads, self.head_dim
        qk, q, k, v = (normal(B, T, H, D) for _ in range(4))
        if self.alike:
            qk = normal(1, 1, 1, D) + 1e-3 * qk
        heads = (H,) if self.rotations_per_head else ()
        num_columns = 0 if self.num_buckets == (1,) else sum(self.num_buckets) // 2
        rotations = normal(*heads, D, self.num_rounds, num_columns)
        kept = torch.rand(B, H, T, T, generator=generator, dtype=torch.float64) >= self.dropout
        keep = kept / (1 - self.dropout) if self.dropout else None
        return Inputs(qk, q, k, v, rotations, self._documents(generator), keep)

    def _documents(self, generator: torch.Generator) -> Tensor | None:
        """Draw document ids: another layout in every row, so that a row mistaken for its neighbour shows."""
        if self.documents == "none":
            return None
        B, T = self.batch, self.num_tokens
        starts = torch.rand(B, T, generator=generator) < 0.2
        starts[:, 0] = False
        documents = starts.cumsum(dim=1)
        if self.documents == "padded":
            lengths = torch.randint(1, T + 1, (B, 1), generator=generator)
            documents = documents.where(torch.arange(T) < lengths, -1)
        elif self.documents == "scattered":
            documents = documents.where(torch.rand(B, T, generator=generator) < 0.7, -1)
        elif self.documents == "blank":
            documents[-1] = -1
        return documents


_SHAPES = [
    Case(1),
    Case(1, num_rounds=3, documents="blank"),
    Case(2, window=1, num_buckets=(2,)),
    Case(7, window=8, num_rounds=1),
    Case(13, window=1, num_rounds=3),
    Case(16, window=4, rotations_per_head=True),
    Case(17, window=4, num_rounds=1, num_buckets=(1,)),
    Case(19, window=3, num_rounds=4, num_buckets=(1,), documents="packed"),
    Case(15, window=4, num_rounds=3, alike=True, documents="padded"),
    Case(11, window=2, num_buckets=(64,)),
    Case(23, window=4, num_rounds=8, documents="padded"),
    Case(21, window=5, num_rounds=3, num_buckets=(2, 4), documents="packed"),
    Case(25, window=3, num_buckets=(4, 2, 2), rotations_per_head=True, documents="scattered"),
    Case(9, window=4, num_rounds=5, documents="blank", head_dim=1),
    Case(14, window=2, batch=1, num_heads=1, head_dim=5, documents="scattered"),
]

CASES = [
    dataclasses.replace(case, causal=causal, dropout=dropout, seed=seed)
    for seed, case in enumerate(_SHAPES)
    for causal in (True, False)
    for dropout in (0.0, 0.3)
]
"""Every shape, causal and not, with and without dropout."""


def random_cases(max_tokens: int = 24, max_rounds: int = 8) -> st.SearchStrategy[Case]:
    """Any mixture of the above; hypothesis shrinks a failure to few tokens and one round."""
    factors = st.lists(st.sampled_from([2, 4, 6]), min_size=1, max_size=3).map(tuple)
    return st.builds(
        Case,
        num_tokens=st.integers(1, max_tokens),
        window=st.integers(1, 8),
        num_buckets=st.one_of(factors, st.just((1,)), st.just((32,))),
        num_rounds=st.integers(1, max_rounds),
        causal=st.booleans(),
        documents=st.sampled_from(["none", "packed", "padded", "scattered", "blank"]),
        dropout=st.sampled_from([0.0, 0.3]),
        alike=st.booleans(),
        rotations_per_head=st.booleans(),
        batch=st.integers(1, 2),
        num_heads=st.integers(1, 2),
        head_dim=st.integers(1, 4),
        seed=st.integers(0, 2**16),
    )


def outputs_and_gradients(function: Callable[..., Tensor], tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the function's output, and the gradient of a fixed random weighting of it for each of the tensors."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    output = function(*leaves)
    generator = torch.Generator().manual_seed(math.prod(output.shape))
    weights = torch.randn(output.shape, generator=generator, dtype=output.dtype)
    return [output.detach(), *torch.autograd.grad((output * weights).sum(), leaves)]
