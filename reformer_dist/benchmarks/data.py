"""How fast and in how much memory Ray Data prepares and feeds: a 2 GB document, a million tiny ones, long sequences.

Each preparation is compared with a loop that only reads and tokenises the same bytes, run before it in this process; both
in CPU-seconds, which others on the machine change little. Memory is the peak of each of Ray's worker processes and of
the object store.
"""

import csv
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from reformer_dist.config import DataConfig, load_config
from reformer_dist.data.corpus import Corpus
from reformer_dist.data.documents import read_records
from reformer_dist.data.loader import batches_from, training_dataset
from reformer_dist.data.prepare import Preparation, plan_preparation
from reformer_dist.data.vocabulary import trained_tokenizer
from reformer_dist.ray_session import ray_session

SIZES = {"small": (2 << 30, 1_000_000, 200), "paper": (16 << 30, 10_000_000, 1000)}
"""Bytes of the single document, number of tiny ones, steps that are fed."""
BPE_BYTES = 24 << 20
LOOP_SECONDS = 10.0
"""The loop of one core reads for so long, or to the end: its rate does not depend on it."""
SAMPLE_SECONDS = 0.1
WORDS = ("the", "sea", "was", "grey", "and", "nobody", "spoke", "of", "what", "they", "had", "seen", "there", "before")
PREPARED = (
    "corpus",
    "MB",
    "seconds",
    "MB a CPU-second",
    "MB a CPU-second of the loop",
    "worker MiB",
    "object store MiB",
)
FED = ("sequence", "batch", "steps", "steps a second", "tokens a second", "seconds to the first")


def run(size: str, output: Path) -> None:
    """Prepare and feed; print two tables and write them as CSV."""
    document_bytes, num_tiny, num_steps = SIZES[size]
    folder = output / "data"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    long, tiny, books = folder / "long.txt", folder / "tiny.jsonl", folder / "books.txt"
    _write(long, document_bytes, b"", b" ")
    _write(tiny, num_tiny * 120, b'{"text": "', b'"}\n')
    _write(books, BPE_BYTES, b"", b"\n")
    prepared = []
    with ray_session():
        for name, source, fields in (
            ("one document", long, {}),
            (f"{num_tiny:,} documents", tiny, {}),
            ("BPE, 8,192 tokens", books, {"tokenizer": "bpe"}),
        ):
            row, corpus = _prepare(name, DataConfig.model_validate({"sources": (str(source),), **fields}), folder)
            prepared.append(row)
            if source == long:
                fed = [_feed(corpus, length, batch, num_steps) for length, batch in FED_LENGTHS]
    _show(PREPARED, prepared, output / "data_prepared.csv")
    _show(FED, fed, output / "data_fed.csv")
    shutil.rmtree(folder)


FED_LENGTHS = ((4096, 8), (65536, 1), (524288, 1))


def _write(path: Path, num_bytes: int, before: bytes, after: bytes) -> None:
    """A file of lines of random words, about `num_bytes` long."""
    generator = np.random.default_rng(0)
    lines = []
    for words in generator.choice(WORDS, (4096, 20)).tolist():
        lines.append(before + " ".join(words).encode() + after)
    block = b"".join(lines)
    with path.open("wb") as file:
        for _ in range(max(1, num_bytes // len(block))):
            file.write(block)


def _prepare(name: str, data: DataConfig, folder: Path) -> tuple[list[Any], Corpus]:
    preparation = plan_preparation(data, str(folder))
    loop_rate = _loop_rate(preparation)
    with _Peaks() as peaks:
        start = time.perf_counter()
        corpus = preparation.run(lambda line: None)
        seconds = time.perf_counter() - start
    megabytes = preparation.num_bytes / 1e6
    rate = megabytes / peaks.cpu_seconds
    return [name, megabytes, seconds, rate, loop_rate, peaks.worker, peaks.object_store], corpus


def _loop_rate(preparation: Preparation) -> float:
    """MB a CPU-second at which this process reads and tokenises, and does nothing else."""
    tokenizer = preparation.tokenizer or trained_tokenizer(preparation.parts, preparation.data)
    num_bytes, start = 0, time.process_time()
    for part in preparation.parts:
        for piece in part.slices:
            for record in read_records(piece, preparation.data, "text"):
                tokenizer.encode(record.content)
                num_bytes += len(record.content)
            if time.process_time() - start > LOOP_SECONDS:
                break
    return num_bytes / 1e6 / (time.process_time() - start)


def _feed(corpus: Corpus, length: int, batch_size: int, num_steps: int) -> list[Any]:
    """Take steps from Ray Data as fast as they come, without training on them."""
    config = load_config(
        None,
        {
            "data.sequence_length": length,
            "model.max_length": length,
            "train.batch_size": batch_size,
            "train.micro_batch_size": batch_size,
            "train.steps": num_steps,
        },
    )
    start = time.perf_counter()
    batches = batches_from(training_dataset(corpus, config, 0, 0).iterator())
    next(batches)
    first = time.perf_counter()
    num_left = sum(1 for _ in batches)
    rate = num_left / (time.perf_counter() - first)
    return [length, batch_size, num_steps, rate, rate * batch_size * length, first - start]


class _Peaks:
    """Samples the memory and the time of Ray's processes while its block runs.

    Attributes:
        cpu_seconds: of all processes that run tasks, while the block ran.
        worker: largest peak of a process that runs tasks, in MiB, what it maps of the object store included.
        object_store: largest part of the object store that was in memory, in MiB.
    """

    def __init__(self) -> None:
        self.worker = self.object_store = 0.0
        self._before = {process: seconds for process, _, _, seconds in _processes()}
        self._after: dict[str, float] = {}
        self._ended = Event()
        self._thread = Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "_Peaks":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def cpu_seconds(self) -> float:
        """See above."""
        return sum(seconds - self._before.get(process, 0.0) for process, seconds in self._after.items())

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            for process, title, status, seconds in _processes():
                if title.startswith("ray::"):
                    self._after[process] = seconds
                    self.worker = max(self.worker, _mebibytes(status, "VmHWM"))
                elif "/raylet" in title.split("\0")[0]:
                    self.object_store = max(self.object_store, _mebibytes(status, "RssShmem"))


def _processes() -> Iterator[tuple[str, str, str, float]]:
    """Number, command line, status and CPU-seconds of every process of this machine that can be seen."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            title, status = (folder / "cmdline").read_text(errors="replace"), (folder / "status").read_text()
            user, system = (folder / "stat").read_text().rpartition(")")[2].split()[11:13]
        except OSError:
            continue  # it has ended
        yield folder.name, title, status, (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _mebibytes(status: str, name: str) -> float:
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith(f"{name}:")), 0.0)


def _show(columns: Sequence[str], rows: Sequence[Sequence[Any]], path: Path) -> None:
    table = Table(*columns)
    for row in rows:
        table.add_row(
            *(
                f"{value:,.1f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value
                for value in row
            )
        )
    Console(width=120).print(table)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    print(f"table: {path}")
