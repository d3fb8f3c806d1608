"""What the GPU kernels need of a processor, found by compiling them ahead of time; no GPU is used.

In: a size. Out: a table of registers, spilled bytes and shared memory for kernels, head widths and dtypes in LSH's window
mode, on the architectures named below. Needs Triton.
"""

import itertools
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from reformer_dist.model.backends.triton import launch

ARCHITECTURES = {"small": (90,), "paper": (80, 90)}
"""Compute capabilities times ten: A100, H100."""
HEAD_DIMS = {"small": (64, 128), "paper": (64, 128, 256)}
KERNELS = ("forward", "backward_queries", "backward_keys")
_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16"}
_VECTORS = ("q", "k", "v", "grad")
_SUMS = ("out", "lse", "delta", "dq", "dk", "dv")


@dataclass(frozen=True)
class Variant:
    """One way to compile a kernel."""

    kernel: str
    architecture: int
    dtype: torch.dtype
    head_dim: int
    dropout: bool
    mode: Literal["window", "chunked", "local"] = "window"
    """LSH attention in window mode, chunked LSH of one document, or causal local attention."""


@dataclass(frozen=True)
class Needs:
    """What the compiled kernel takes of a processor."""

    registers: int
    """Of a thread, of 255."""
    spilled: int
    """Bytes a thread that didn't fit the registers."""
    shared: int
    """Bytes of shared memory a program."""
    block: int
    """Places of a panel."""
    warps: int
    """Of a program."""


def run(size: str, output: Path) -> None:
    """Print the table; nothing is written to `output`."""
    if not launch.is_available():
        return
    print(f"{'kernel':16} {'sm':>3} {'dtype':>5} {'D':>4} {'dropout':>8} {'block':>5} {'warps':>5} "
          f"{'registers':>9} {'spilled':>7} {'shared KiB':>10}")  # fmt: skip
    choices = itertools.product(KERNELS, ARCHITECTURES[size], _NAMES, HEAD_DIMS[size], (False, True))
    for variant in itertools.starmap(Variant, choices):
        needs = compile_ahead(variant)
        print(f"{variant.kernel:16} {variant.architecture:3} {_NAMES[variant.dtype]:>5} {variant.head_dim:4} "
              f"{'on' if variant.dropout else 'off':>8} {needs.block:5} {needs.warps:5} "
              f"{needs.registers:9} {needs.spilled:7} {needs.shared / 1024:10.1f}", flush=True)  # fmt: skip


def compile_ahead(variant: Variant) -> Needs:
    """Compile for an architecture that need not be here."""
    import triton
    from triton.backends.compiler import GPUTarget

    from reformer_dist.model.backends.triton import kernels

    kernel = getattr(kernels, variant.kernel)
    block = launch.pick_block(64, variant.head_dim, variant.dtype)
    is_chunked = variant.mode == "chunked"
    known: dict[str, Any] = launch.constants(
        variant.head_dim,
        block,
        shared=variant.mode != "local",
        reach=not is_chunked,
        compare="earlier" if is_chunked else "any",
    )
    known["segments" if is_chunked else "met_itself"] = None
    if not variant.dropout:
        known["hashes"] = None
    signature = {name: "constexpr" if name in known else _type(name, variant.dtype) for name in kernel.arg_names}
    aligned = [name for name, kind in signature.items() if kind.startswith("*") or name.endswith("stride")]
    source = triton.compiler.ASTSource(
        kernel,
        signature,
        {name: value for name, value in known.items() if name in signature},
        {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    options = launch.options(variant.kernel)
    compiled = triton.compile(source, target=GPUTarget("cuda", variant.architecture, 32), options=options)
    registers, spilled = _assemble(compiled.asm["ptx"], triton.knobs.nvidia.ptxas.path, variant.architecture)
    return Needs(registers, spilled, compiled.metadata.shared, block, options["num_warps"])


def _type(name: str, dtype: torch.dtype) -> str:
    if name in _VECTORS:
        return f"*{_NAMES[dtype]}"
    if name in _SUMS:
        return "*fp32"
    return {
        "met_itself": "*i16",
        "rows": "*i32",
        "segments": "*i32",
        "hashes": "*i64",
        "kept": "fp32",
        "scale": "fp32",
    }.get(name, "i32")


def _assemble(ptx: str, assembler: str, architecture: int) -> tuple[int, int]:
    """Registers and spilled bytes of a thread, as the assembler counts them."""
    suffix = "a" if architecture == 90 else ""
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        command = [assembler, "-v", f"--gpu-name=sm_{architecture}{suffix}", file.name, "-o", "/dev/null"]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    found = re.search(r"Used (\d+) registers", said), re.search(r"(\d+) bytes spill stores", said)
    assert found[0], said
    assert found[1], said
    return int(found[0][1]), int(found[1][1])
