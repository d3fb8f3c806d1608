"""What one core prepares without Ray: a preparation in, MB a CPU-second of plain loops and of our task out.

The plain loops know nothing of splits, names, bad documents or resuming, and count no tokens. One reads and tokenises; the
other also writes what a task writes, with the same rows, compression, page checksums and hashes.
"""

import json
import time
from collections.abc import Callable, Iterator
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pyarrow as pa
import xxhash

from reformer_dist.data.preparing.parts import write_part
from reformer_dist.data.preparing.preparation import Preparation
from reformer_dist.data.preparing.token_rows import ROW_TOKENS, TOKENS_SCHEMA
from reformer_dist.data.tokenizers.tokenizer import Tokenizer
from reformer_dist.storage.hashed_files import HashingFile
from reformer_dist.storage.parquet import parquet_writer
from reformer_dist.storage.stores import open_store

BLOCK_BYTES = 1 << 20


Work = Callable[[Preparation, Tokenizer, int, str], int]
"""Works through the first so many bytes of a preparation, in a folder; returns how many they were."""


class Rates(NamedTuple):
    """MB of sources a CPU-second of one process."""

    reading: float
    """Of a plain loop that reads and tokenises."""
    writing: float
    """Of a plain loop that reads, tokenises and writes."""
    task: float
    """Of what Ray Data's tasks run."""


def rates(preparation: Preparation, tokenizer: Tokenizer, num_bytes: int) -> Rates:
    """Run the loops and the task on the first `num_bytes` of local texts or JSONL files with a field called text."""
    with TemporaryDirectory() as folder:
        works: tuple[Work, ...] = (_read, _write, _run_tasks)
        return Rates(*(_rate(work, preparation, tokenizer, num_bytes, folder) for work in works))


def _rate(work: Work, *arguments: Any) -> float:
    start = time.process_time()
    taken = work(*arguments)
    return taken / 1e6 / (time.process_time() - start)


def _documents(preparation: Preparation, num_bytes: int) -> Iterator[tuple[int, bytes | str]]:
    """(bytes in the file, content) of each document, or of each block of a text, up to `num_bytes` altogether."""
    files = {piece.file.url: piece.file for part in preparation.parts for piece in part.slices}
    for url, listed in files.items():
        with open(url, "rb") as file:
            if url.endswith(".jsonl"):
                for line in file:
                    yield len(line), json.loads(line)["text"]
                    if (num_bytes := num_bytes - len(line)) <= 0:
                        return
            elif (listed.size or 0) <= BLOCK_BYTES:
                yield listed.size or 0, file.read()
                num_bytes -= listed.size or 0
            else:
                while num_bytes > 0 and (block := file.read(BLOCK_BYTES)):
                    yield len(block), block
                    num_bytes -= len(block)
        if num_bytes <= 0:
            return


def _read(preparation: Preparation, tokenizer: Tokenizer, num_bytes: int, folder: str) -> int:
    taken = 0
    for size, document in _documents(preparation, num_bytes):
        tokenizer.encode(document)
        taken += size
    return taken


def _write(preparation: Preparation, tokenizer: Tokenizer, num_bytes: int, folder: str) -> int:
    taken, pending, row_bytes = 0, bytearray(), ROW_TOKENS * tokenizer.dtype.itemsize
    content = xxhash.xxh3_128()
    with HashingFile(open_store(folder), "plain.parquet") as file, parquet_writer(file, TOKENS_SCHEMA) as writer:
        for size, document in _documents(preparation, num_bytes):
            pending += tokenizer.encode(document).tobytes()
            taken += size
            while len(pending) >= row_bytes:
                row = bytes(pending[:row_bytes])
                del pending[:row_bytes]
                content.update(row)
                writer.write_table(pa.table([pa.array([row], pa.binary())], schema=TOKENS_SCHEMA))
    return taken


def _run_tasks(preparation: Preparation, tokenizer: Tokenizer, num_bytes: int, folder: str) -> int:
    taken, definitions = 0, {"text": tokenizer.to_json()}
    for part in preparation.parts:
        table = pa.Table.from_pylist([part.to_row()])
        (row,) = write_part(table, preparation.data, definitions, folder).to_pylist()
        assert not row["error"], row["error"]
        taken += sum((piece.stop or piece.file.size or 0) - piece.start for piece in part.slices)
        if taken >= num_bytes:
            break
    return taken
