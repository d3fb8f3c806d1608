"""Memory of a training step by width, depth and length, and the longest sequence: where the bytes of a token go.

In: a size. Out: two tables and a CSV file. Models alternate local and LSH layers; one process, float32, batch 1.
"""

from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from reformer_dist.benchmarks.process_memory import MIB
from reformer_dist.benchmarks.speed import report as speed_report
from reformer_dist.benchmarks.speed.measuring import Case, Measurement, measure
from reformer_dist.benchmarks.speed.model import Kind, our_model

MEMORY = 16 * 2**30  # bytes of the longest sequence that is named


class Shape(NamedTuple):
    """A model's width and depth, and a sequence's length."""

    embed_dim: int
    num_layers: int
    length: int


GRIDS = {
    "small": [Shape(128, 2, 16384), Shape(256, 2, 16384), Shape(256, 6, 16384), Shape(256, 6, 32768)],
    "paper": [
        *(Shape(width, 6, 16384) for width in (128, 256, 512)),
        *(Shape(256, depth, 16384) for depth in (2, 12)),
        *(Shape(256, 6, length) for length in (65536, 131072)),
    ],
}
LONGEST = {"small": Shape(256, 6, 131072), "paper": Shape(256, 6, 1048576)}


def run(size: Literal["small", "paper"], output: Path) -> None:
    """Print the tables; write memory-SIZE.csv into `output`."""
    shapes = [*GRIDS[size], LONGEST[size]]
    measurements = measure([_case(shape) for shape in shapes], turns=1)
    print(f"\n{table(shapes, measurements)}")
    for path in speed_report.write(output, f"memory-{size}", measurements, "Models by width and depth"):
        print(path)


def table(shapes: list[Shape], measurements: list[Measurement]) -> str:
    """Bytes a token, those of the four streams (two and their gradients) among them, and what fits 16 GiB."""
    lines = [
        f"{'width':>6}{'layers':>8}{'tokens':>11}{'minutes':>9}{'peak MiB':>10}{'bytes a token':>15}{'four streams':>14}"
        f"{'other':>8}{'in streams':>12}{'tokens in 16 GiB':>18}"
    ]
    for shape, m in zip(shapes, measurements, strict=True):
        a_token, streams = m.peak_mib * MIB / shape.length, 4 * 4 * shape.embed_dim
        lines.append(
            f"{shape.embed_dim:>6}{shape.num_layers:>8}{shape.length:>11,}{m.seconds / 60:>9.2f}{m.peak_mib:>10,.0f}"
            f"{a_token:>15,.0f}{streams:>14,}{a_token - streams:>8,.0f}{a_token / streams * 4:>12.1f}"
            f"{MEMORY / a_token:>18,.0f}"
        )
    return "\n".join(lines)


def _case(shape: Shape) -> Case:
    layers: tuple[Kind, ...] = ("local", "lsh") * (shape.num_layers // 2)
    name = f"width {shape.embed_dim}, {shape.num_layers} layers"
    return Case(name, shape.length, partial(our_model, layers=layers, embed_dim=shape.embed_dim))
