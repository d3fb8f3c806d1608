"""Writing a corpus: parts in; a folder that holds their token files, the tables of documents and the manifest out."""

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
import xxhash

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
from reformer_dist.data.parts import ROW_TOKENS, Part, write_part
from reformer_dist.data.stores import HashingFile, Store, parquet_writer
from reformer_dist.data.streaming import iterate_tables, quiet
from reformer_dist.data.tokenizers import make_tokenizer

REPORT_SECONDS = 10.0
DOCUMENTS_SCHEMA = pa.schema([("name", pa.string()), ("tokens", pa.int64())])


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
    content = xxhash.xxh3_128(json.dumps([SCHEMA_VERSION, tokenizer_name]).encode())
    for row in rows:
        content.update(json.dumps([row["split"], row["names"], row["lengths"], row["file"]["tokens_xxh3"]]).encode())
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        hash=content.hexdigest(),
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
