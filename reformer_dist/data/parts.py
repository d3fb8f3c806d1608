"""One part of a corpus: consecutive documents in, one token file out. This is what the tasks of Ray Data run."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from reformer_dist.data.corpus import SplitName, StoredFile
from reformer_dist.data.sources import Document
from reformer_dist.data.stores import HashingFile, Store, one_line, open_store, parquet_writer
from reformer_dist.data.tokenizers import Tokenizer, make_tokenizer

ROW_TOKENS = 65536
"""Tokens of a row, which is a row group: small enough that reading one sequence reads little else."""
BINARY_PROBE = 8192
"""Leading bytes of a file in which a NUL means binary, as git has it."""
TOKENS_SCHEMA = pa.schema([pa.field("tokens", pa.binary(), nullable=False)])


@dataclass(frozen=True)
class Part:
    """Consecutive documents of a split, written as one file.

    Attributes:
        split: train or validation.
        index: number of the file within its split.
        documents: what goes into it, in order.
        kept_end: None for whole documents; else validation takes this share at the end of each, and train the rest.
    """

    split: SplitName
    index: int
    documents: tuple[Document, ...]
    kept_end: float | None


def write_part(table: pa.Table, tokenizer_name: str, folder: str) -> pa.Table:
    """Read, tokenise and write one part (the task of Ray Data).

    Args:
        table: one row, a `Part` as JSON.
        tokenizer_name: which tokenizer.
        folder: where the token file goes.

    Returns:
        One row: the part's split and index, its token file's entry for the manifest, the names and lengths of its
        documents, its unigram counts, the binary files left out; or, in `error`, what went wrong in one line.
    """
    fields = json.loads(table["part"][0].as_py())
    part = Part(**{**fields, "documents": tuple(Document(**document) for document in fields["documents"])})
    tokenizer = make_tokenizer(tokenizer_name)
    store = open_store(folder)
    result: dict[str, Any] = {"split": part.split, "index": part.index, "error": ""}
    name = f"{part.split}-{part.index:05d}.parquet"
    documents = _Documents(part, tokenizer)
    try:
        result["file"], result["counts"] = _write_tokens(store, name, iter(documents), tokenizer)
    except _SourceError as error:
        result["error"] = str(error)
    except (OSError, pa.ArrowException) as error:
        result["error"] = f"train.storage: {store.child(name)} cannot be written: {one_line(error)}"
    result |= {"names": documents.names, "lengths": documents.lengths, "skipped": documents.skipped}
    return pa.Table.from_pylist([result])


class _SourceError(OSError):
    """A document that cannot be read."""


class _Documents:
    """Iterates over the tokens of a part's documents, one at a time, and keeps count of them."""

    def __init__(self, part: Part, tokenizer: Tokenizer) -> None:
        self._part = part
        self._tokenizer = tokenizer
        self.names: list[str] = []
        self.lengths: list[int] = []
        self.skipped: list[str] = []

    def __iter__(self) -> Iterator[NDArray[Any]]:
        for document in self._part.documents:
            data = _read_document(document)
            if document.skip_binary and b"\0" in data[:BINARY_PROBE]:
                self.skipped.append(document.url)
                continue
            tokens = self._tokenizer.encode(data)
            if self._part.kept_end is not None:
                cut = len(tokens) - max(1, round(len(tokens) * self._part.kept_end))
                tokens = tokens[:cut] if self._part.split == "train" else tokens[cut:]
            if len(tokens):
                self.names.append(document.name)
                self.lengths.append(len(tokens))
                yield tokens


def _read_document(document: Document) -> bytes:
    try:
        store = open_store(document.url)
        with store.filesystem.open_input_stream(store.path, compression=None) as stream:
            data: bytes = stream.read()
    except (OSError, pa.ArrowException, ValueError) as error:
        raise _SourceError(f"data.sources: {document.url} cannot be read: {one_line(error)}") from None
    if document.size is not None and len(data) != document.size:
        raise _SourceError(f"data.sources: {document.url} changed while it was being read; start again")
    return data


def _write_tokens(
    store: Store, name: str, documents: Iterator[NDArray[Any]], tokenizer: Tokenizer
) -> tuple[dict[str, Any], list[int]]:
    """Write documents end to end in rows of ROW_TOKENS; returns the file's entry for the manifest and unigram counts."""
    content = xxhash.xxh3_128()
    counts = np.zeros(tokenizer.vocab_size, np.int64)
    row = np.empty(ROW_TOKENS, tokenizer.dtype)
    filled = num_tokens = 0
    with HashingFile(store, name) as file, parquet_writer(file, TOKENS_SCHEMA) as writer:

        def flush() -> None:
            counts[:] += np.bincount(row[:filled], minlength=len(counts))
            data = row[:filled].tobytes()
            content.update(data)
            writer.write_table(pa.table([pa.array([data], pa.binary())], schema=TOKENS_SCHEMA))

        for tokens in documents:
            num_tokens += len(tokens)
            while len(tokens):
                taken = min(len(tokens), ROW_TOKENS - filled)
                row[filled : filled + taken] = tokens[:taken]
                filled, tokens = filled + taken, tokens[taken:]
                if filled == ROW_TOKENS:
                    flush()
                    filled = 0
        if filled:
            flush()
    stored = StoredFile(name=name, size=file.size, xxh3=file.hexdigest)
    entry = stored.model_dump() | {"tokens": num_tokens, "tokens_xxh3": content.hexdigest()}
    return entry, counts.tolist()
