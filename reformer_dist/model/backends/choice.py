"""The one place that chooses which code computes attention, and can say why.

In: a description of the work: device, dtype, head width, mode, dropout, and what `model.attention_kernel` asks for. Out: the
first backend of `BACKENDS` that serves it, or the choice in words.

A new backend is a file with a `Backend` in it and a line in `BACKENDS`.
"""

from torch import Tensor

from reformer_dist.model.backends.backend import Backend, KernelName, Work
from reformer_dist.model.backends.description import OrderedBlocks
from reformer_dist.model.backends.fused import Fused
from reformer_dist.model.backends.native.backend import Native
from reformer_dist.model.backends.native.widened import Widened
from reformer_dist.model.backends.plain.backend import Plain
from reformer_dist.model.backends.triton.backend import Triton

BACKENDS: dict[str, Backend] = {
    "compiled": Native(),
    "compiled, widened": Widened(),
    "triton": Triton(),
    "fused torch code": Fused(),
    "plain": Plain(),
}
"""By name, the fastest first. The last one serves everything."""


def choose(work: Work) -> Backend:
    """The backend for the work."""
    return _choice(work)[1]


def choose_for(x: Tensor, blocks: OrderedBlocks, kernel: KernelName) -> Backend:
    """The backend for attention in these blocks of vectors like `x` [..., D]."""
    return choose(Work(x.device, x.dtype, x.shape[-1], blocks.rule.once, blocks.dropout is not None, kernel))


def explain(work: Work) -> str:
    """The choice and its reason: "compiled: float32 on a CPU with AVX512"."""
    name, backend, reasons = _choice(work)
    return f"{name}: {'; '.join(reasons) or backend.strength(work)}"


def _choice(work: Work) -> tuple[str, Backend, list[str]]:
    """Name and backend, and why it is not a faster one that runs on this device."""
    if work.kernel == "plain":
        return "plain", BACKENDS["plain"], ["model.attention_kernel = plain"]
    reasons: list[str] = []
    for name, backend in BACKENDS.items():
        refusal = backend.refusal(work)
        if refusal is None:
            return name, backend, reasons
        if backend.is_meant_for(work):
            reasons.append(refusal)
    raise AssertionError("the plain backend refuses nothing")
