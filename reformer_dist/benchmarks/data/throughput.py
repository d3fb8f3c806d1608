"""How fast and in how much memory Ray Data prepares and feeds: a 2 GB document, a million tiny ones, long sequences.

What a task does is also run in this process, beside plain loops over the same files (see `plain_loops`), in CPU-seconds,
which others on the machine change little. Memory is the peak of each of Ray's worker processes and of the object store.
"""

import csv
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from reformer_dist.benchmarks.data.plain_loops import rates
from reformer_dist.benchmarks.process_memory import mib_in, status_mib
from reformer_dist.config import DataConfig, load_config
from reformer_dist.data.feeding.loader import batches_from, training_dataset
from reformer_dist.data.preparing.corpus import Corpus
from reformer_dist.data.preparing.preparation import Preparation, plan_preparation
from reformer_dist.data.reading.finding.sources import list_files
from reformer_dist.objectives.choice import make_objective
from reformer_dist.ray_session import ray_session

SIZES = {"small": (2 << 30, 1_000_000, 200), "paper": (16 << 30, 10_000_000, 1000)}
"""Bytes of the single document, number of tiny ones, steps that are fed."""
LOOP_BYTES = 256 << 20
BPE_BYTES, BPE_LOOP_BYTES = 24 << 20, 4 << 20
FOLDER_FILES = 1000
"""Tiny files in a folder."""
SAMPLE_SECONDS = 0.1
WORDS = ("the", "sea", "was", "grey", "and", "nobody", "spoke", "of", "what", "they", "had", "seen", "there", "before")
PREPARED = ("corpus", "MB", "listing s", "seconds", "MB/s", "worker MiB", "object store MiB", "driver MiB")
RATES = ("corpus, MB a CPU-second of", "reading and tokenising", "reading, tokenising, writing", "a task")
FED_LENGTHS = ((4096, 8), (65536, 1), (524288, 1))
"""Tokens of a sequence and sequences of a step."""
FED = ("sequence", "batch", "steps", "steps a second", "tokens a second", "seconds to the first")


def run(size: str, output: Path) -> None:
    """Prepare and feed; print three tables and write them as CSV."""
    document_bytes, num_tiny, num_steps = SIZES[size]
    folder = output / "data"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    code = b"".join(Path(file.url).read_bytes() for file in list_files(["stdlib"]))
    corpora: tuple[tuple[str, str, Callable[[Path], None], int], ...] = (
        (f"{num_tiny:,} lines of JSON", "lines.jsonl", partial(_write_lines, num_lines=num_tiny), LOOP_BYTES),
        (f"{num_tiny:,} files", "files", partial(_write_files, num_files=num_tiny), LOOP_BYTES),
        ("BPE, 8,192 tokens", "bpe.txt", partial(_write, content=code, num_bytes=BPE_BYTES), BPE_LOOP_BYTES),
        ("one document", "long.txt", partial(_write, content=code, num_bytes=document_bytes), LOOP_BYTES),
    )
    prepared, compared = [], []
    with ray_session():
        for name, source, write, loop_bytes in corpora:
            write(folder / source)
            tokenizer = "bpe" if source.startswith("bpe") else "bytes"
            data = DataConfig.model_validate({"sources": (str(folder / source),), "tokenizer": tokenizer})
            row, preparation, corpus = _prepare(name, data, folder)
            prepared.append(row)
            compared.append([name, *rates(preparation, corpus.tokenizer, loop_bytes)])
            print(
                ", ".join(f"{value:.1f}" if isinstance(value, float) else value for value in (*row, *compared[-1][1:]))
            )
        fed = [_feed(corpus, length, batch, num_steps) for length, batch in FED_LENGTHS]
    _show(PREPARED, prepared, output / "data_prepared.csv")
    _show(RATES, compared, output / "data_rates.csv")
    _show(FED, fed, output / "data_fed.csv")
    shutil.rmtree(folder)


def _texts(num_words: int) -> list[bytes]:
    """Texts of random words."""
    generator = np.random.default_rng(0)
    return [" ".join(words).encode() for words in generator.choice(WORDS, (4096, num_words)).tolist()]


def _write(path: Path, content: bytes, num_bytes: int) -> None:
    """A file of the same content again and again."""
    with path.open("wb") as file:
        for start in range(0, num_bytes, len(content)):
            file.write(content[: num_bytes - start])


def _write_lines(path: Path, num_lines: int) -> None:
    """A JSONL file of texts of about 110 bytes."""
    lines = [b'{"text": "%s"}\n' % text for text in _texts(20)]
    with path.open("wb") as file:
        file.writelines(lines[number % len(lines)] for number in range(num_lines))


def _write_files(folder: Path, num_files: int) -> None:
    """Files of about 40 bytes, FOLDER_FILES in a folder."""
    contents = _texts(9)
    for number in range(num_files):
        name, rest = divmod(number, FOLDER_FILES)
        if not rest:
            (folder / f"{name:05d}").mkdir(parents=True)
        (folder / f"{name:05d}" / f"{rest:03d}.txt").write_bytes(contents[number % len(contents)])


def _prepare(name: str, data: DataConfig, folder: Path) -> tuple[list[Any], Preparation, Corpus]:
    start = time.perf_counter()
    preparation = plan_preparation(data, str(folder))
    listed = time.perf_counter()
    with _Peaks() as peaks:
        corpus = preparation.run(lambda line: None)
        seconds = time.perf_counter() - listed
    megabytes = preparation.num_bytes / 1e6
    rate = megabytes / (listed - start + seconds)
    memory = (peaks.worker, peaks.object_store, status_mib("VmHWM"))
    return [name, megabytes, listed - start, seconds, rate, *memory], preparation, corpus


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
    batches = batches_from(training_dataset(corpus, config, make_objective(config.objective), 0, 0).iterator())
    next(batches)
    first = time.perf_counter()
    num_left = sum(1 for _ in batches)
    rate = num_left / (time.perf_counter() - first)
    return [length, batch_size, num_steps, rate, rate * batch_size * length, first - start]


class _Peaks:
    """Samples the memory of Ray's processes while its block runs.

    Attributes:
        worker: largest peak of a process that runs tasks, in MiB, what it maps of the object store included.
        object_store: largest part of the object store that was in memory, in MiB.
    """

    def __init__(self) -> None:
        self.worker = self.object_store = 0.0
        self._ended = Event()
        self._thread = Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "_Peaks":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            for title, status in _processes():
                if title.startswith("ray::"):
                    self.worker = max(self.worker, mib_in(status, "VmHWM"))
                elif "/raylet" in title.split("\0")[0]:
                    self.object_store = max(self.object_store, mib_in(status, "RssShmem"))


def _processes() -> Iterator[tuple[str, str]]:
    """Command line and status of every process of this machine that can be seen."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            yield (folder / "cmdline").read_text(errors="replace"), (folder / "status").read_text()
        except OSError:
            continue  # it has ended


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
