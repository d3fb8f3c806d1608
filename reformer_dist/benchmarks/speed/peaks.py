"""The memory formula against measured steps: width, depth, length, heads, rounds, rows, dtype, workers, exchanges, sources.

In: a size, which changes nothing. Out: a table and a CSV file: what the formula predicts of each shape and what a step took,
in processes of their own: the most that the largest worker held during the forward and backward pass above what it held
before. The processes give freed memory back at once (MALLOC_MMAP_THRESHOLD_), as the formula says.

One process loads the code and is copied for every worker, which saves loading it again.
"""

import csv
import multiprocessing
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import torch
import torch.distributed as dist

from reformer_dist.benchmarks.process_memory import MIB, restart_peak, status_mib
from reformer_dist.config import Config, load_config
from reformer_dist.model.choice import make_model
from reformer_dist.model.encoder_decoder import EncoderDecoder, SourceTokens
from reformer_dist.model.reformer import ReformerLM
from reformer_dist.parallel.parallelize import parallelize
from reformer_dist.parallel.topology import Topology, make_topology
from reformer_dist.planning.memory.formula import Moment, step_memory
from reformer_dist.planning.memory.parts import Work

_TIMEOUT = timedelta(minutes=5)
_WARM_UP = 2048
"""Tokens of a worker's shard in the step that loads code; as many as a piece, so that matrix products keep their buffers."""


@dataclass(frozen=True)
class Peak:
    """One line of the table."""

    name: str
    """What is special about the shape."""
    predicted: Moment
    """By the formula."""
    measured: float
    """Bytes."""

    @property
    def error(self) -> float:
        """Prediction over measurement, less 1."""
        return self.predicted.parts.total / self.measured - 1


def run(size: Literal["small", "paper"], output: Path) -> None:
    """Print the table; write peaks.csv into `output`."""
    peaks = measure_peaks(shapes() | encoder_decoder_shapes())
    print(table(peaks))
    output.mkdir(parents=True, exist_ok=True)
    print(write(output, peaks))


def _config(
    length: int,
    model: Mapping[str, Any],
    *,
    workers: int = 1,
    exchange: Mapping[str, Any] | None = None,
    rows: int = 1,
    dtype: str = "float32",
    source: int | None = None,
) -> Config:
    base = {"num_heads": 2, "feed_forward_dim": 512, "embed_dim": 128, "layers": "local,lsh", "max_length": length}
    tree = {
        "data": {"sequence_length": length, "source_length": source},
        "model": {**base, **model, "max_source_length": source},
        "parallel": {"sequence_shards": workers, **(exchange or {})},
        "train": {"workers": workers, "batch_size": rows, "micro_batch_size": rows, "dtype": dtype},
    }
    return load_config(None, tree)


def shapes() -> dict[str, Config]:
    """Shapes of some 40 to 300 MiB whose steps take seconds, each by what it varies."""
    wide = {"embed_dim": 256, "num_heads": 4}
    return {
        "narrow": _config(16384, {}),
        "wide": _config(4096, {"embed_dim": 512, "num_heads": 8, "feed_forward_dim": 2048}),
        "deep": _config(4096, {"layers": ",".join(["local", "lsh"] * 6)}),
        "long": _config(65536, {"embed_dim": 64, "num_heads": 1, "feed_forward_dim": 64, "num_hashes": 1}),
        "16 heads": _config(4096, {"embed_dim": 256, "num_heads": 16, "layers": "lsh,lsh"}),
        "16 rounds": _config(8192, {"num_hashes": 16, "layers": "lsh"}),
        "4 rows, full attention": _config(2048, {**wide, "layers": "full,lsh"}, rows=4),
        "local, both sides, chunked LSH": _config(8192, {**wide, "causal": False, "lsh_mode": "chunked"}),
        "vocabulary of 8,192": _config(4096, {"vocab_size": 8192, "layers": "local"}),
        "dropout, tied embeddings": _config(8192, {**wide, "hidden_dropout": 0.1, "tie_embeddings": True}),
        "float64": _config(8192, {}, dtype="float64"),
        "streams kept": _config(16384, {"keep": "streams"}),
        "attention kept": _config(16384, {"keep": "attention"}),
        "projections kept, 2 workers": _config(
            16384, {**wide, "keep": "projections"}, workers=2, exchange={"attention": "heads"}
        ),
        "products kept of half the layers": _config(16384, {"keep": "products,nothing"}),
        "products kept, 2 workers": _config(
            16384, {**wide, "keep": "products"}, workers=2, exchange={"attention": "buckets"}
        ),
        "2 workers, heads": _config(16384, wide, workers=2, exchange={"attention": "heads"}),
        "2 workers, buckets": _config(16384, wide, workers=2, exchange={"attention": "buckets"}),
        "4 workers, heads": _config(16384, wide, workers=4, exchange={"attention": "heads"}),
        "4 workers, buckets": _config(16384, wide, workers=4, exchange={"attention": "buckets"}),
        "4 workers, both": _config(16384, wide, workers=4, exchange={"attention": "both", "head_shards": 2}),
    }


def encoder_decoder_shapes() -> dict[str, Config]:
    """Models with an encoder: either cross-attention, longer sources, longer targets, depth, rows, dropout, workers."""
    found: dict[str, Config] = {}
    deep, wide = ",".join(["local", "lsh"] * 4), {"num_heads": 4, "head_dim": 64, "embed_dim": 64, "layers": "local"}
    for cross in ("full", "lsh"):
        model = {"encoder_layers": "local,lsh", "cross_attention": cross}
        found |= {
            f"{cross}, 16,384 to 2,048": _config(2048, model, source=16384),
            f"{cross}, 1,024 to 16,384": _config(16384, model, source=1024),
            f"{cross}, 2 layers": _config(4096, model, source=4096),
            f"{cross}, 8 layers": _config(4096, {**model, "layers": deep, "encoder_layers": deep}, source=4096),
            f"{cross}, heads by turns": _config(1024, {**model, **wide, "encoder_layers": "local"}, source=65536),
            f"{cross}, 4 rows": _config(1024, model, rows=4, source=2048),
            f"{cross}, products kept": _config(4096, {**model, "keep": "products"}, source=8192),
            f"{cross}, dropout": _config(2048, {**model, "attention_dropout": 0.1, "hidden_dropout": 0.1}, source=8192),
            f"{cross}, 2 workers": _config(8192, model, workers=2, exchange={"attention": "buckets"}, source=16384),
        }
    return found


def measure_peaks(configs: Mapping[str, Config]) -> list[Peak]:
    """Measure a step of each, one after the other.

    Raises:
        RuntimeError: a worker died; its traceback is on the terminal.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure_all, args=(list(configs.values()), sender))
    with mock.patch.dict(os.environ, {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}):
        process.start()
    sender.close()
    peaks = []
    for name, config in configs.items():
        try:
            measured = receiver.recv()
        except EOFError:
            raise RuntimeError(f"a worker of {name} died") from None
        peaks.append(Peak(name, step_memory(Work.of(config)), measured))
    process.join()
    return peaks


def table(peaks: Iterable[Peak]) -> str:
    """A line for each shape; the parts are of the moment that takes most."""
    lines = [f"{'':<32}{'predicted':>10}{'measured':>10}{'error':>8}  when and what (MiB)"]
    for peak in peaks:
        parts = peak.predicted.parts
        lines.append(
            f"{peak.name:<32}{parts.total / MIB:>10,.0f}{peak.measured / MIB:>10,.0f}{peak.error:>8.1%}"
            f"  {peak.predicted.name}: {parts}"
        )
    return "\n".join(lines)


def write(output: Path, peaks: Iterable[Peak]) -> Path:
    """Write peaks.csv."""
    path = output / "peaks.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["shape", "moment", "predicted_mib", "measured_mib"])
        for peak in peaks:
            mib = (peak.predicted.parts.total / MIB, peak.measured / MIB)
            writer.writerow([peak.name, peak.predicted.name, *(f"{size:.1f}" for size in mib)])
    return path


def _measure_all(configs: list[Config], sender: Connection) -> None:
    """Send the peak of each configuration's largest worker, in bytes."""
    torch.set_num_threads(1)
    context = multiprocessing.get_context("fork")
    for config in configs:
        with tempfile.TemporaryDirectory() as folder:
            pipes = [context.Pipe(duplex=False) for _ in range(config.train.max_workers)]
            processes = [
                context.Process(target=_work, args=(rank, config, f"{folder}/store", theirs), daemon=True)
                for rank, (_, theirs) in enumerate(pipes)
            ]
            for process, (_, theirs) in zip(processes, pipes, strict=True):
                process.start()
                theirs.close()
            sender.send(max(ours.recv() for ours, _ in pipes) * MIB)
            for process in processes:
                process.join()


def _work(rank: int, config: Config, store: str, sender: Connection) -> None:
    workers = config.train.max_workers
    if workers > 1:
        dist.init_process_group("gloo", f"file://{store}", _TIMEOUT, workers, rank)
    topology = make_topology(config)
    model = make_model(config.model).train()
    if config.train.dtype == "float64":
        model = model.double()
    parallelize(model, topology)
    length, source = config.data.sequence_length // workers, config.data.longest_source // workers
    _step(model, config, topology, min(_WARM_UP, length), min(_WARM_UP, source))
    model.zero_grad()
    if workers > 1:
        dist.barrier()
    before = restart_peak()
    _step(model, config, topology, length, source)
    sender.send(status_mib("VmHWM") - before)
    if workers > 1:
        dist.barrier()


def _step(
    model: ReformerLM | EncoderDecoder, config: Config, topology: Topology, length: int, source_length: int
) -> None:
    generator = torch.Generator().manual_seed(topology.shard)
    shape, vocab_size = (config.train.micro_batch_size, length), config.model.vocab_size
    tokens_BT, labels_BT = torch.randint(vocab_size, (2, *shape), generator=generator)
    first = topology.shard * length
    if isinstance(model, EncoderDecoder):
        read_BS = torch.randint(vocab_size, (shape[0], source_length), generator=generator)
        place = topology.shard * source_length
        source = SourceTokens(read_BS, _positions(read_BS, place), torch.zeros_like(read_BS), place)
        where = (_positions(tokens_BT, first), torch.zeros_like(tokens_BT))
        loss_sum, _ = model.loss(source, tokens_BT, labels_BT, *where, first_position=first)
    else:
        loss_sum, _ = model.loss(tokens_BT, labels_BT, first_position=first)
    (loss_sum / labels_BT.numel()).backward()


def _positions(tokens_BT: torch.Tensor, first: int) -> torch.Tensor:
    """Of each token in its sequence, int64, as training has them."""
    return torch.arange(first, first + tokens_BT.shape[1]).expand_as(tokens_BT)
