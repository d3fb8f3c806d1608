"""Token files: one long string of tokens in rows of equal length, written in order and read by position."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from numpy.typing import ArrayLike, NDArray

from reformer_dist.data.preparing.manifest import SPLITS, TokenFile
from reformer_dist.data.tokenizers.tokenizer import Tokenizer
from reformer_dist.storage.hashed_files import HashingFile
from reformer_dist.storage.parquet import parquet_writer
from reformer_dist.storage.stores import Store, naming

ROW_TOKENS = 65536
"""Tokens of a row, which is a row group: small enough that reading one sequence reads little else."""
BUFFERED_TOKENS = 4 * ROW_TOKENS
"""Tokens that are collected before their rows are written."""
PAIRS = 1 << 16
"""Number of pairs of bytes."""
TOKENS_SCHEMA = pa.schema([pa.field("tokens", pa.binary(), nullable=False)])


class TokenRows:
    """Writes tokens end to end in rows of ROW_TOKENS, and counts them; a context manager.

    Attributes:
        num_tokens: tokens written so far.
    """

    def __init__(self, file: HashingFile, tokenizer: Tokenizer) -> None:
        self._writer = parquet_writer(file, TOKENS_SCHEMA)
        self._content = xxhash.xxh3_128()
        self._counts = np.zeros((len(SPLITS), tokenizer.vocab_size), np.int64)
        self._dtype = tokenizer.dtype
        self._pending: list[NDArray[Any]] = []  # what is not yet in a row
        self._num_pending = 0
        self.num_tokens = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._write_rows(everything=True)
        self._writer.close()

    def write(self, tokens: NDArray[Any], lengths: ArrayLike, splits: ArrayLike) -> None:
        """Append documents, or pieces of them.

        Args:
            tokens: all of them end to end [n], in the tokenizer's dtype.
            lengths: tokens of each.
            splits: index of each one's split.
        """
        self._count(tokens, np.asarray(lengths), np.asarray(splits))
        self._pending.append(tokens)
        self._num_pending += len(tokens)
        if self._num_pending >= BUFFERED_TOKENS:
            self._write_rows(everything=False)

    def counts(self) -> list[list[int]]:
        """How often each token occurs in each split."""
        counts: list[list[int]] = self._counts.tolist()
        return counts

    @property
    def hexdigest(self) -> str:
        """xxh3-128 of the tokens in written rows."""
        return self._content.hexdigest()

    def _write_rows(self, *, everything: bool) -> None:
        """Write the full rows of what is pending, and the rest of it too if that is `everything`."""
        if not self._num_pending:
            return
        tokens = np.concatenate(self._pending, dtype=self._dtype)
        end = len(tokens) if everything else len(tokens) - len(tokens) % ROW_TOKENS
        if end:
            written = tokens[:end].view(np.uint8)
            self._content.update(written.data)
            self._writer.write_table(_rows(written, ROW_TOKENS * self._dtype.itemsize), row_group_size=1)
        self.num_tokens += end
        self._pending, self._num_pending = [tokens[end:]], len(tokens) - end

    def _count(self, tokens: NDArray[Any], lengths: NDArray[Any], splits: NDArray[Any]) -> None:
        of_first = _histogram(tokens, self._counts.shape[1])
        first, *others = np.flatnonzero(np.bincount(splits)).tolist()
        split_of_token = np.repeat(splits.astype(np.uint8), lengths) if others else None
        for split in others:
            of_split = _histogram(tokens[split_of_token == split], self._counts.shape[1])
            self._counts[split] += of_split
            of_first -= of_split
        self._counts[first] += of_first


def _rows(data: NDArray[np.uint8], row_bytes: int) -> pa.Table:
    """A table whose rows are `row_bytes` of data each, the last one what is left; nothing is copied."""
    offsets = np.append(np.arange(0, len(data), row_bytes), len(data)).astype(np.int32)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    return pa.table([pa.Array.from_buffers(pa.binary(), len(offsets) - 1, buffers)], schema=TOKENS_SCHEMA)


def _histogram(tokens: NDArray[Any], vocab_size: int) -> NDArray[np.int64]:
    """How often each token occurs, int64 [vocab_size]; bytes are counted two at a time, which takes half as long."""
    if tokens.dtype != np.uint8 or len(tokens) < PAIRS:
        return np.bincount(tokens, minlength=vocab_size)
    num_pairs, odd = divmod(len(tokens), 2)
    pairs = np.bincount(tokens[: 2 * num_pairs].view(np.uint16), minlength=PAIRS).reshape(256, 256)
    counts = pairs.sum(axis=0) + pairs.sum(axis=1)
    if odd:
        counts[tokens[-1]] += 1
    return counts[:vocab_size]


class TokenReader:
    """Reads the token files of a corpus as the one string they are."""

    def __init__(self, store: Store, files: Sequence[TokenFile], row_tokens: int, dtype: np.dtype[Any]) -> None:
        self._store = store
        self._files = files
        self._row_tokens = row_tokens
        self._dtype = dtype
        self._ends = np.cumsum([file.tokens for file in files])
        self._open_file: Callable[[int], pq.ParquetFile] = lru_cache(32)(self._open)
        self._row: Callable[[int, int], NDArray[Any]] = lru_cache(256)(self._read_row)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Tokens `start` to `stop`.

        Raises:
            OSError: a file that cannot be read, or a page whose checksum is wrong; the message names it.
        """
        assert 0 <= start <= stop <= self._ends[-1]
        pieces = []
        while start < stop:
            file = int(np.searchsorted(self._ends, start, side="right"))
            file_start = int(self._ends[file - 1]) if file else 0
            row, begin = divmod(start - file_start, self._row_tokens)
            piece = self._row(file, row)[begin : begin + stop - start]
            pieces.append(piece)
            start += len(piece)
        return np.concatenate(pieces) if pieces else np.empty(0, self._dtype)

    def _open(self, file: int) -> pq.ParquetFile:
        path = self._store.child(self._files[file].name)
        return pq.ParquetFile(self._store.filesystem.open_input_file(path), page_checksum_verification=True)

    def _read_row(self, file: int, row: int) -> NDArray[Any]:
        with naming(self._store, self._files[file].name):
            table = self._open_file(file).read_row_group(row, columns=["tokens"], use_threads=False)
        return np.frombuffer(table["tokens"][0].as_buffer(), self._dtype)
