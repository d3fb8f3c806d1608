"""Writing a corpus: parts in; a folder that holds their token files, the table of documents and the manifest out."""

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import ray
import ray.data
import xxhash
from numpy.typing import NDArray

from reformer_dist.config import DataConfig
from reformer_dist.data.preparing.manifest import (
    DOCUMENTS,
    MANIFEST,
    SCHEMA_VERSION,
    SPLITS,
    TOKENIZER,
    HeldOut,
    Manifest,
    Split,
)
from reformer_dist.data.preparing.parts import Part, PartResult, read_part, write_part
from reformer_dist.data.preparing.token_rows import ROW_TOKENS, TokenReader
from reformer_dist.data.streaming import iterate_tables, quiet
from reformer_dist.data.tokenizers.tokenizer import Tokenizer
from reformer_dist.errors import ConfigError
from reformer_dist.storage.hashed_files import StoredFile, new_file
from reformer_dist.storage.parquet import parquet_writer
from reformer_dist.storage.stores import Store

REPORT_SECONDS = 10.0
COUNTED_TOKENS = 1 << 20
DOCUMENTS_SCHEMA = pa.schema([("name", pa.string()), ("source", pa.int16()), *((name, pa.int64()) for name in SPLITS)])
Int64s = NDArray[np.int64]


def write_corpus(
    parts: Sequence[Part],
    data: DataConfig,
    tokenizer: Tokenizer,
    store: Store,
    report: Callable[[str], None],
    num_binary: int = 0,
) -> None:
    """Write every part as a Ray Data dataset with a row for each, then the table of documents and the manifest.

    Parts that an interrupted attempt has finished are kept. Where a text that is written in part turns out to be bad and
    `data.skip_bad_documents` is set, the parts that hold some of it are written again without it.

    Args:
        parts: all parts of the corpus.
        data: formats, fields and splits.
        tokenizer: what makes the tokens.
        store: where the files go.
        report: takes lines of progress.
        num_binary: files that were left out before.

    Raises:
        ConfigError: a split without a token.
        OSError: a document that cannot be read or a file that cannot be written.
    """
    assert ray.is_initialized(), "Ray must be running: reformer_dist.ray_session"
    definition = tokenizer.to_json()
    write: Any = partial(write_part, data=data, tokenizer=definition, folder=store.url(store.path))

    def with_ray_data(some: Sequence[Part]) -> Iterator[dict[str, Any]]:
        listing = ray.data.from_items([part.to_row() for part in some], override_num_blocks=len(some))
        dataset = quiet(listing.map_batches(write, batch_size=1, batch_format="pyarrow"))
        for table in iterate_tables(dataset.iterator()):
            yield from table.to_pylist()

    write_parts(parts, with_ray_data, report)
    write_manifest(len(parts), data, tokenizer, store, num_binary)


def write_parts(
    parts: Sequence[Part],
    write: Callable[[Sequence[Part]], Iterable[dict[str, Any]]],
    report: Callable[[str], None] = print,
) -> None:
    """Have all parts written; those with a piece of a text that must be left out a second time, without it.

    Args:
        parts: all parts of the corpus.
        write: hands parts to `write_part` and yields its rows as they come.
        report: takes lines of progress.

    Raises:
        OSError: a document that cannot be read or a file that cannot be written.
    """
    num_kept = 0
    last_report = time.monotonic()
    while parts:
        bad: dict[str, str] = {}
        for num_done, row in enumerate(write(parts), start=1):
            if row["error"]:
                raise OSError(row["error"])
            num_kept += row["was_there"]
            for url, problem in json.loads(row["bad"]).items():
                bad[url] = min(problem, bad.get(url, problem))  # whichever part was first
            if time.monotonic() - last_report > REPORT_SECONDS:
                last_report = time.monotonic()
                report(f"prepared {num_done} of {len(parts)} files")
        pairs = [(part, part.without(bad)) for part in parts]
        parts = [without for part, without in pairs if without is not part]
        if parts:
            report(f"{len(bad)} large documents are bad; {len(parts)} files are made again without them")
    if num_kept:
        report(f"{num_kept} files were there from an interrupted attempt")


@contextmanager
def complete_folder(store: Store) -> Iterator[Store | None]:
    """A place to write a corpus so that `store` holds all of it or no manifest; None when it turns out to be there.

    On a local disk this is a folder beside it, held by one process at a time and renamed at the end. Object stores
    cannot rename: there it is `store` itself, which the manifest, written last, completes.
    """
    if not store.is_local:
        yield store
        return
    final, aside = Path(store.path), Path(f"{store.path}.partial")
    descriptor = _lock_folder(aside)
    try:
        if (final / MANIFEST).exists():
            for file in aside.iterdir():
                file.unlink()
            aside.rmdir()
            yield None
            return
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


def write_manifest(num_parts: int, data: DataConfig, tokenizer: Tokenizer, store: Store, num_binary: int = 0) -> None:
    """Write the table of documents and, last, the manifest; what no longer belongs there is deleted.

    Raises:
        ConfigError: a split without a token.
        OSError: a file that cannot be written; the message names it.
    """
    results = [read_part(store, index) for index in range(num_parts)]
    files = tuple(result.file for result in results)
    names, lengths, splits, sources = _documents(results)
    lengths_by_split, held_out = _held_out(lengths, splits, data)
    counts = np.sum([result.counts for result in results], axis=0)
    if held_out == "ends":
        reader = TokenReader(store, files, ROW_TOKENS, tokenizer.dtype)
        counts = _count_ends(reader, counts, lengths_by_split)
    _check_splits(lengths_by_split, data, results)
    table = pa.table([names, pa.array(sources), *map(pa.array, lengths_by_split)], schema=DOCUMENTS_SCHEMA)
    with new_file(store, DOCUMENTS) as file, parquet_writer(file, DOCUMENTS_SCHEMA) as writer:
        writer.write_table(table)
    documents_file = StoredFile(name=DOCUMENTS, size=file.size, xxh3=file.hexdigest)
    definition = tokenizer.to_json()
    with new_file(store, TOKENIZER) as file:
        file.write(definition.encode())
    content = xxhash.xxh3_128(f"{SCHEMA_VERSION} {definition} {documents_file.xxh3}".encode())
    for token_file in files:
        content.update(token_file.tokens_xxh3.encode())
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        hash=content.hexdigest(),
        tokenizer=tokenizer.name,
        vocab_size=tokenizer.vocab_size,
        row_tokens=ROW_TOKENS,
        num_sources=len(data.sources),
        held_out=held_out,
        binary=num_binary + len({url for result in results for url in result.binary}),
        bad=sum(result.num_bad for result in results),
        **{
            name: Split(documents=int((n > 0).sum()), tokens=int(n.sum()), unigram_counts=tuple(of_split.tolist()))
            for name, n, of_split in zip(SPLITS, lengths_by_split, counts, strict=True)
        },
        documents_file=documents_file,
        tokenizer_file=StoredFile(name=TOKENIZER, size=file.size, xxh3=file.hexdigest),
        token_files=files,
    )
    with new_file(store, MANIFEST) as file:
        file.write((manifest.model_dump_json(indent=1) + "\n").encode())
    _delete_others(store, {MANIFEST, *(stored.name for stored in manifest.files)})


def _documents(results: Sequence[PartResult]) -> tuple[pa.Array, Int64s, NDArray[Any], NDArray[Any]]:
    """Names, lengths, splits and sources of all documents, those that lie in several parts put together."""
    table = pa.concat_tables([result.documents for result in results]).combine_chunks()
    starts = np.flatnonzero(~table["continues"].to_numpy(zero_copy_only=False))
    if not len(starts):
        return pa.array([], pa.string()), np.zeros(0, np.int64), np.zeros(0, np.int8), np.zeros(0, np.int16)
    lengths = np.add.reduceat(table["tokens"].to_numpy(), starts)
    starts, lengths = starts[lengths > 0], lengths[lengths > 0]
    names = table["name"].combine_chunks().take(pa.array(starts))
    return names, lengths, table["split"].to_numpy()[starts], table["source"].to_numpy()[starts]


def _held_out(lengths: Int64s, splits: NDArray[Any], data: DataConfig) -> tuple[list[Int64s], HeldOut]:
    """Tokens that each split has of each document: all or none, or where there are too few documents for that, a part."""
    fractions = {"validation": data.validation_fraction, "test": data.test_fraction}
    shares = [1 - sum(fractions.values()), *(share for share in fractions.values() if share)]
    whole = [np.where(splits == index, lengths, 0) for index in range(len(SPLITS))]
    expects_one_in_each = len(lengths) * min(shares) >= 1 or data.split_by is not None
    if expects_one_in_each and all(whole[SPLITS.index(name)].any() for name in SPLITS if fractions.get(name, 1)):
        return whole, "documents"
    if data.split_by is not None and len(lengths):
        raise ConfigError(
            f"data.split_by = {data.split_by}: its values put all documents in too few splits; leave it out"
        )
    ends = {}
    left = lengths
    for name in reversed(SPLITS[1:]):
        wanted = np.maximum(1, np.round(lengths * fractions[name]).astype(np.int64)) if fractions[name] else 0 * lengths
        ends[name] = np.minimum(wanted, left)
        left = left - ends[name]
    return [left, *(ends[name] for name in SPLITS[1:])], "ends"


def _count_ends(reader: TokenReader, counts: Int64s, lengths_by_split: Sequence[Int64s]) -> Int64s:
    """How often each token occurs in each split where splits are parts of documents; `counts` has the right sum."""
    found = np.zeros_like(counts)
    starts = np.cumsum(np.stack(lengths_by_split).T.ravel()) - np.stack(lengths_by_split).T.ravel()
    for index in range(1, len(SPLITS)):
        for start, length in zip(starts[index :: len(SPLITS)], lengths_by_split[index], strict=True):
            for first in range(int(start), int(start + length), COUNTED_TOKENS):
                tokens = reader.read(first, min(first + COUNTED_TOKENS, int(start + length)))
                found[index] += np.bincount(tokens, minlength=counts.shape[1])
    found[0] = counts.sum(axis=0) - found.sum(axis=0)
    return found


def _check_splits(lengths_by_split: Sequence[Int64s], data: DataConfig, results: Sequence[PartResult]) -> None:
    problems = [problem for result in results for problem in result.problems]
    for name, lengths in zip(SPLITS, lengths_by_split, strict=True):
        if lengths.any() or (name == "test" and not data.test_fraction):
            continue
        left_out = "binary files are left out"
        if problems:
            left_out = f"{sum(result.num_bad for result in results)} bad documents were left out, first {problems[0]}"
        raise ConfigError(f"data.sources: too little for a {name} split; name more of it ({left_out})")


def _delete_others(store: Store, kept: set[str]) -> None:
    for info in store.filesystem.get_file_info(pafs.FileSelector(store.path)):
        if info.type == pafs.FileType.File and info.base_name not in kept:
            store.filesystem.delete_file(info.path)
