"""Finishing a corpus: parts that are written in, the table of documents and the manifest out."""

import json
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import xxhash

from reformer_dist.config import DataConfig
from reformer_dist.config.sections.data import TEXT
from reformer_dist.data.preparing.documents import SHOWN_PROBLEMS, tokens_column
from reformer_dist.data.preparing.held_out import Int64s, SplitLengths, count_ends, hold_out
from reformer_dist.data.preparing.manifest import (
    DOCUMENTS,
    MANIFEST,
    SPLITS,
    TEXT_SCHEMA,
    TOKENIZER,
    FieldEntry,
    HeldOut,
    Manifest,
    Split,
    file_name,
    length_column,
    schema_of,
)
from reformer_dist.data.preparing.parts import PartResult, read_part
from reformer_dist.data.preparing.token_rows import ROW_TOKENS, TokenReader
from reformer_dist.data.tokenizers.tokenizer import Tokenizer
from reformer_dist.errors import ConfigError
from reformer_dist.storage.hashed_files import StoredFile, new_file
from reformer_dist.storage.parquet import parquet_writer
from reformer_dist.storage.stores import Store


def write_manifest(
    num_parts: int, data: DataConfig, tokenizers: Mapping[str, Tokenizer], store: Store, num_binary: int = 0
) -> None:
    """Write the table of documents and, last, the manifest; what no longer belongs there is deleted.

    Raises:
        ConfigError: a split without a token, or too few documents of several fields.
        OSError: a file that cannot be written; the message names it.
    """
    results = [read_part(store, index) for index in range(num_parts)]
    problems = [problem for result in results for problem in result.problems][:SHOWN_PROBLEMS]
    num_bad = sum(result.num_bad for result in results)
    if data.most_bad is not None and num_bad > data.most_bad:
        raise ConfigError(
            f"data.most_bad = {data.most_bad}: {num_bad:,} bad documents were left out, first {problems[0]}; {num_bad} works"
        )
    about, all_lengths = _documents(results, tokenizers)
    lengths, held_out = hold_out(all_lengths, about["split"].to_numpy(), data)
    _check_splits(lengths, data, results)
    documents_file = _write_documents(about, lengths, store)
    fields = {
        name: _write_field(name, tokenizer, results, lengths, held_out, data, store)
        for name, tokenizer in tokenizers.items()
    }
    manifest = Manifest(
        schema_version=schema_of(fields),
        hash=_content_hash(tokenizers, documents_file, fields),
        row_tokens=ROW_TOKENS,
        num_sources=len(data.sources),
        held_out=held_out,
        binary=num_binary + len({url for result in results for url in result.binary}),
        bad=num_bad,
        problems=tuple(problems),
        documents_file=documents_file,
        fields=fields,
    )
    with new_file(store, MANIFEST) as file:
        file.write(manifest.to_json().encode())
    _delete_others(store, {MANIFEST, *(stored.name for stored in manifest.files)})


def _content_hash(
    tokenizers: Mapping[str, Tokenizer], documents_file: StoredFile, fields: Mapping[str, FieldEntry]
) -> str:
    """Of the tokens, the table of documents and the tokenizers."""
    schema = schema_of(fields)
    definitions = {name: tokenizer.to_json() for name, tokenizer in tokenizers.items()}
    if schema == TEXT_SCHEMA:
        definition = definitions[TEXT]
    else:
        definition = json.dumps([[name, text, fields[name].aligned_with] for name, text in definitions.items()])
    content = xxhash.xxh3_128(f"{schema} {definition} {documents_file.xxh3}".encode())
    for entry in fields.values():
        for token_file in entry.token_files:
            content.update(token_file.tokens_xxh3.encode())
    return content.hexdigest()


def _documents(results: Sequence[PartResult], fields: Iterable[str]) -> tuple[pa.Table, dict[str, Int64s]]:
    """Names, sources and splits of all documents, and tokens of each field; those that lie in several parts put together.

    Documents without a token in any field are left out.
    """
    table = pa.concat_tables([result.documents for result in results]).combine_chunks()
    starts = np.flatnonzero(~table["continues"].to_numpy(zero_copy_only=False))
    lengths = {
        name: np.add.reduceat(table[tokens_column(name)].to_numpy(), starts) if len(starts) else np.zeros(0, np.int64)
        for name in fields
    }
    held = np.any([each > 0 for each in lengths.values()], axis=0)
    about = table.select(["name", "source", "split"]).take(pa.array(starts[held]))
    return about.combine_chunks(), {name: each[held] for name, each in lengths.items()}


def _write_documents(about: pa.Table, lengths: SplitLengths, store: Store) -> StoredFile:
    """Write the table of documents."""
    columns = {
        length_column(lengths, name, split): pa.array(each)
        for name, by_split in lengths.items()
        for split, each in zip(SPLITS, by_split, strict=True)
    }
    named = [("name", pa.string()), ("source", pa.int16()), *((column, pa.int64()) for column in columns)]
    table = pa.table([about["name"], about["source"], *columns.values()], schema=pa.schema(named))
    with new_file(store, DOCUMENTS) as file, parquet_writer(file, table.schema) as writer:
        writer.write_table(table)
    return StoredFile(name=DOCUMENTS, size=file.size, xxh3=file.hexdigest)


def _write_field(
    name: str,
    tokenizer: Tokenizer,
    results: Sequence[PartResult],
    lengths: SplitLengths,
    held_out: HeldOut,
    data: DataConfig,
    store: Store,
) -> FieldEntry:
    """Write a field's tokenizer; returns its entry in the manifest."""
    with new_file(store, file_name(lengths, name, TOKENIZER)) as file:
        file.write(tokenizer.to_json().encode())
    token_files = tuple(result.files[name] for result in results)
    counts = np.sum([result.counts[name] for result in results], axis=0)
    if held_out == "ends":
        reader = TokenReader(store, token_files, ROW_TOKENS, tokenizer.dtype)
        counts = count_ends(reader, counts, lengths[name])
    documents = np.any([np.stack(each) > 0 for each in lengths.values()], axis=0).sum(axis=1)
    splits = {
        split: Split(documents=int(documents[index]), tokens=int(n.sum()), unigram_counts=tuple(counts[index].tolist()))
        for index, (split, n) in enumerate(zip(SPLITS, lengths[name], strict=True))
    }
    return FieldEntry(
        tokenizer=tokenizer.name,
        vocab_size=tokenizer.vocab_size,
        aligned_with=data.record_fields[name].aligned_with,
        **splits,
        tokenizer_file=StoredFile(name=file_name(lengths, name, TOKENIZER), size=file.size, xxh3=file.hexdigest),
        token_files=token_files,
    )


def _check_splits(lengths: SplitLengths, data: DataConfig, results: Sequence[PartResult]) -> None:
    problems = [problem for result in results for problem in result.problems]
    for index, name in enumerate(SPLITS):
        is_held = any(by_split[index].any() for by_split in lengths.values())
        if is_held or (name == "test" and not data.test_fraction):
            continue
        left_out = "binary files are left out"
        if problems:
            left_out = f"{sum(result.num_bad for result in results)} bad documents were left out, first {problems[0]}"
        raise ConfigError(f"data.sources: too little for a {name} split; name more of it ({left_out})")


def _delete_others(store: Store, kept: set[str]) -> None:
    for info in store.filesystem.get_file_info(pafs.FileSelector(store.path)):
        if info.type == pafs.FileType.File and info.base_name not in kept:
            store.filesystem.delete_file(info.path)
