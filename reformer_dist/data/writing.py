"""Writing a corpus: parts in, token files and a manifest out. The tasks of Ray Data run `write_part`."""

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
import xxhash
from numpy.typing import NDArray

from reformer_dist.config import ConfigError
from reformer_dist.data.corpus import (
    MANIFEST,
    SCHEMA_VERSION,
    SPLITS,
    HeldOut,
    Manifest,
    Split,
    SplitName,
    StoredFile,
    TokenFile,
)
from reformer_dist.data.sources import Document
from reformer_dist.data.stores import HashingFile, Store, one_line, open_store, parquet_writer
from reformer_dist.data.streaming import iterate_tables, quiet
from reformer_dist.data.tokenizers import Tokenizer, make_tokenizer

ROW_TOKENS = 65536
"""Tokens of a row, which is a row group: small enough that reading one sequence reads little else."""
BINARY_PROBE = 8192
"""Leading bytes of a file in which a NUL means binary, as git has it."""
REPORT_SECONDS = 10.0
TOKENS_SCHEMA = pa.schema([pa.field("tokens", pa.binary(), nullable=False)])
DOCUMENTS_SCHEMA = pa.schema([("name", pa.string()), ("tokens", pa.int64())])


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


def write_corpus(
    parts: Sequence[Part], tokenizer: str, held_out: HeldOut, store: Store, report: Callable[[str], None]
) -> None:
    """Write every part as a Ray Data dataset with a row for each, then the documents' tables and the manifest.

    Raises:
        ConfigError: a split without a token.
        OSError: a document that cannot be read or a file that cannot be written.
    """
    assert ray.is_initialized(), "Ray must be running: reformer_dist.ray_session"
    rows = [{"part": json.dumps(asdict(part))} for part in parts]
    write: Any = partial(write_part, tokenizer_name=tokenizer, folder=store.url(store.path))
    listing = ray.data.from_items(rows, override_num_blocks=len(rows))
    dataset = quiet(listing.map_batches(write, batch_size=1, batch_format="pyarrow"))
    written: dict[tuple[SplitName, int], dict[str, Any]] = {}
    last_report = time.monotonic()
    for table in iterate_tables(dataset.iterator()):
        for row in table.to_pylist():
            if row["error"]:
                raise OSError(row["error"])
            written[row["split"], row["index"]] = row
        if time.monotonic() - last_report > REPORT_SECONDS:
            last_report = time.monotonic()
            report(f"prepared {len(written)} of {len(parts)} files")
    write_manifest([written[part.split, part.index] for part in parts], tokenizer, held_out, store)


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
    part = json.loads(table["part"][0].as_py())
    part = Part(**{**part, "documents": tuple(Document(**document) for document in part["documents"])})
    tokenizer = make_tokenizer(tokenizer_name)
    store = open_store(folder)
    result: dict[str, Any] = {"split": part.split, "index": part.index, "error": ""}
    name = f"{part.split}-{part.index:05d}.parquet"
    documents = _Documents(part, tokenizer)
    try:
        result["file"] = _write_tokens(store, name, iter(documents), tokenizer.dtype)
    except _SourceError as error:
        result["error"] = str(error)
    except (OSError, pa.ArrowException) as error:
        result["error"] = f"train.storage: {store.child(name)} cannot be written: {one_line(error)}"
    result |= {"names": documents.names, "lengths": documents.lengths, "skipped": documents.skipped}
    return pa.Table.from_pylist([result | {"counts": documents.counts.tolist()}])


@contextmanager
def complete_folder(store: Store) -> Iterator[Store | None]:
    """A place to write a corpus so that `store` holds all of it or no manifest; None when it turns out to be there.

    On a local disk this is a folder beside it, emptied of an interrupted attempt, held by one process at a time, and
    renamed at the end. Object stores cannot rename: there it is `store` itself, which the manifest, written last,
    completes.
    """
    if not store.is_local:
        yield store
        return
    final, aside = Path(store.path), Path(f"{store.path}.partial")
    descriptor = _lock_folder(aside)
    try:
        if (final / MANIFEST).exists():
            aside.rmdir()
            yield None
            return
        for file in aside.iterdir():
            file.unlink()
        yield replace(store, path=str(aside))
        aside.rename(final)
    finally:
        os.close(descriptor)


def _lock_folder(folder: Path) -> int:
    """Make a folder and wait until it is this process's alone; the returned descriptor holds it until closed."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Whoever held it may have renamed the folder away in the meantime.
        if folder.exists() and os.path.samestat(os.fstat(descriptor), folder.stat()):
            return descriptor
        os.close(descriptor)


class _SourceError(OSError):
    """A document that cannot be read."""


class _Documents:
    """Iterates over the tokens of a part's documents, one at a time, and keeps count of them."""

    def __init__(self, part: Part, tokenizer: Tokenizer) -> None:
        self._part = part
        self._tokenizer = tokenizer
        self.names: list[str] = []
        self.lengths: list[int] = []
        self.counts = np.zeros(tokenizer.vocab_size, np.int64)
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
                self.counts += np.bincount(tokens, minlength=len(self.counts))
                yield tokens


def _read_document(document: Document) -> bytes:
    try:
        store = open_store(document.url)
        with store.filesystem.open_input_stream(store.path, compression=None) as stream:
            data = bytes(stream.read())
    except (OSError, pa.ArrowException, ValueError) as error:
        raise _SourceError(f"data.sources: {document.url} cannot be read: {one_line(error)}") from None
    if document.size is not None and len(data) != document.size:
        raise _SourceError(f"data.sources: {document.url} changed while it was being read; start again")
    return data


def _write_tokens(store: Store, name: str, documents: Iterator[NDArray[Any]], dtype: np.dtype[Any]) -> dict[str, Any]:
    """Write documents end to end in rows of ROW_TOKENS; returns the file's entry for the manifest."""
    content = xxhash.xxh3_128()
    row = np.empty(ROW_TOKENS, dtype)
    filled = num_tokens = 0
    with HashingFile(store, name) as file, parquet_writer(file, TOKENS_SCHEMA) as writer:

        def flush() -> None:
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
    return stored.model_dump() | {"tokens": num_tokens, "tokens_xxh3": content.hexdigest()}


def write_manifest(rows: Sequence[dict[str, Any]], tokenizer_name: str, held_out: HeldOut, store: Store) -> None:
    """Write the documents' tables and, last, the manifest.

    Args:
        rows: what `write_part` returned for every part, in the parts' order.
        tokenizer_name: which tokenizer.
        held_out: how the splits were made.
        store: the corpus's folder.

    Raises:
        ConfigError: a split without a token.
    """
    tokenizer = make_tokenizer(tokenizer_name)
    splits = {name: _write_split(name, [row for row in rows if row["split"] == name], store) for name in SPLITS}
    content = [SCHEMA_VERSION, tokenizer_name, ROW_TOKENS]
    content += [[s.documents_file.xxh3, *(file.tokens_xxh3 for file in s.token_files)] for s in splits.values()]
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        hash=xxhash.xxh3_128_hexdigest(json.dumps(content).encode()),
        tokenizer=tokenizer_name,
        vocab_size=tokenizer.vocab_size,
        row_tokens=ROW_TOKENS,
        held_out=held_out,
        skipped=len({url for row in rows for url in row["skipped"]}),
        **splits,
    )
    with store.filesystem.open_output_stream(store.child(MANIFEST), compression=None) as stream:
        stream.write((manifest.model_dump_json(indent=1) + "\n").encode())


def _write_split(name: SplitName, rows: Sequence[dict[str, Any]], store: Store) -> Split:
    num_tokens = sum(row["file"]["tokens"] for row in rows)
    if not num_tokens:
        raise ConfigError(
            f"data.sources: too little text for a {name} split; name more of it (binary files are left out)"
        )
    file_name = f"{name}-documents.parquet"
    with HashingFile(store, file_name) as file, parquet_writer(file, DOCUMENTS_SCHEMA) as writer:
        for row in rows:
            writer.write_table(pa.table([row["names"], row["lengths"]], schema=DOCUMENTS_SCHEMA))
    return Split(
        documents=sum(len(row["names"]) for row in rows),
        tokens=num_tokens,
        unigram_counts=tuple(np.sum([row["counts"] for row in rows], axis=0).tolist()),
        documents_file=StoredFile(name=file_name, size=file.size, xxh3=file.hexdigest),
        token_files=tuple(TokenFile(**row["file"]) for row in rows),
    )
