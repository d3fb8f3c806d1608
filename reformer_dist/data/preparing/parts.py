"""One part of a corpus: slices of files in, one token file and a table of its documents out. Ray Data's tasks run this."""

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import xxhash

from reformer_dist.config.data import DataConfig
from reformer_dist.data.preparing.documents import Documents
from reformer_dist.data.preparing.manifest import TokenFile
from reformer_dist.data.preparing.token_rows import TokenRows
from reformer_dist.data.reading.files import StoreError
from reformer_dist.data.reading.formats import FileSlice
from reformer_dist.data.reading.sources import SourceFile
from reformer_dist.data.tokenizers.choice import read_tokenizer
from reformer_dist.data.tokenizers.tokenizer import Tokenizer
from reformer_dist.storage.hashed_files import HashingFile, StoredFile
from reformer_dist.storage.parquet import parquet_writer
from reformer_dist.storage.stores import STORE_ERRORS, Store, not_written, open_store, patiently


@dataclass(frozen=True)
class Part:
    """Slices of consecutive files, written as one file.

    Attributes:
        index: its number.
        slices: what is read.
        left_out: files that began in this part and are not read, since they turned out to be bad: each in one line.
    """

    index: int
    slices: tuple[FileSlice, ...]
    left_out: tuple[str, ...] = ()

    def to_json(self) -> bytes:
        """What `from_json` makes the same part of; in columns, since there may be thousands."""
        files = list(zip(*(piece.file for piece in self.slices), strict=True))
        slices = list(zip(*(piece[1:] for piece in self.slices), strict=True))
        return orjson.dumps({"index": self.index, "files": files, "slices": slices, "left_out": self.left_out})

    @classmethod
    def from_json(cls, text: bytes) -> "Part":
        """The part that was written down."""
        tree = orjson.loads(text)
        files = map(SourceFile, *tree["files"]) if tree["files"] else ()
        slices = tuple(map(FileSlice, files, *tree["slices"]))
        return cls(tree["index"], slices, tuple(tree["left_out"]))

    def to_row(self) -> dict[str, bytes]:
        """A row for Ray Data, compressed: names and places of a million files are alike."""
        return {"part": zlib.compress(self.to_json(), 1)}

    def without(self, bad: Mapping[str, str]) -> "Part":
        """The same part where files with these URLs are left out, each for the reason given; itself if it has none."""
        slices = tuple(piece for piece in self.slices if piece.file.url not in bad)
        if len(slices) == len(self.slices):
            return self
        reasons = (bad[piece.file.url] for piece in self.slices if piece.file.url in bad and not piece.start)
        return Part(self.index, slices, (*self.left_out, *reasons))


@dataclass
class PartResult:
    """What a finished part holds, kept beside its token file until the corpus is whole.

    Attributes:
        plan: hash of what it was made from.
        file: its token file's entry in the manifest.
        counts: for each split how often each token occurs.
        binary: files left out because they are no text.
        num_bad: documents left out because they are bad, and `problems`, the first few of them.
        documents: the rows of PARTS_SCHEMA.
    """

    plan: str
    file: TokenFile
    counts: list[list[int]]
    binary: list[str] = field(default_factory=list)
    num_bad: int = 0
    problems: list[str] = field(default_factory=list)
    documents: pa.Table = None


def write_part(table: pa.Table, data: DataConfig, tokenizer: str, folder: str) -> pa.Table:
    """Read, tokenise and write one part, unless an earlier attempt has finished it (the task of Ray Data).

    Args:
        table: one row, as `Part.to_row` makes it.
        data: formats, fields and splits.
        tokenizer: the tokenizer's JSON.
        folder: where the token file goes.

    Returns:
        One row: the part's index, whether it was there, in `error` what went wrong in one line, and in `bad` as JSON
        the files that must be left out of all parts before this one can be written, with the reasons.
    """
    text = zlib.decompress(table["part"][0].as_py())
    part, store = Part.from_json(text), open_store(folder)
    plan = xxhash.xxh3_64_hexdigest(text + tokenizer.encode())  # the folder's name stands for `data`
    row: dict[str, Any] = {"index": part.index, "was_there": False, "error": "", "bad": "{}"}
    name = f"tokens-{part.index:05d}.parquet"
    try:
        row["was_there"] = _is_finished(store, part.index, plan)
        if not row["was_there"]:
            _delete_result(store, part.index)
            row |= patiently(lambda: _write(part, plan, data, _tokenizer(tokenizer), store, name))
    except STORE_ERRORS as error:
        row["error"] = not_written(store, name, error)
    return pa.Table.from_pylist([row])


def read_part(store: Store, index: int) -> PartResult:
    """What a finished part holds."""
    with store.filesystem.open_input_file(store.child(_result_name(index))) as file:
        table = pq.read_table(file)
    fields = json.loads(table.schema.metadata[b"part"])
    return PartResult(**{**fields, "file": TokenFile(**fields["file"]), "documents": table.replace_schema_metadata()})


def _is_finished(store: Store, index: int, plan: str) -> bool:
    if store.filesystem.get_file_info(store.child(_result_name(index))).type != pafs.FileType.File:
        return False
    try:
        result = read_part(store, index)
    except (pa.ArrowException, OSError):
        return False  # it was cut off while being written
    info = store.filesystem.get_file_info(store.child(result.file.name))
    return result.plan == plan and bool(info.size == result.file.size)


def _delete_result(store: Store, index: int) -> None:
    """Delete the note of a part whose token file is about to be replaced."""
    path = store.child(_result_name(index))
    if store.filesystem.get_file_info(path).type == pafs.FileType.File:
        store.filesystem.delete_file(path)


def _result_name(index: int) -> str:
    return f"part-{index:05d}.parquet"


@lru_cache(1)
def _tokenizer(text: str) -> Tokenizer:
    return read_tokenizer(text)


def _write(part: Part, plan: str, data: DataConfig, tokenizer: Tokenizer, store: Store, name: str) -> dict[str, str]:
    """Write a part; returns the fields `error` or `bad` of `write_part`'s row if its sources are not as they should be."""
    with HashingFile(store, name) as file, TokenRows(file, tokenizer) as rows:
        documents = Documents(data, tokenizer, rows, part.left_out)
        try:
            for piece in part.slices:
                documents.read(piece)
            documents.finish()
        except StoreError as error:
            return {"error": str(error)}
    if documents.bad_files:
        return {"bad": json.dumps(documents.bad_files)}
    stored = StoredFile(name=name, size=file.size, xxh3=file.hexdigest)
    entry = TokenFile(**stored.model_dump(), tokens=rows.num_tokens, tokens_xxh3=rows.hexdigest)
    fields = {"plan": plan, "file": entry.model_dump(), "counts": rows.counts(), **documents.left_out()}
    table = documents.table().replace_schema_metadata({b"part": json.dumps(fields)})
    with (
        HashingFile(store, _result_name(part.index)) as file,
        parquet_writer(file, table.schema, store_schema=True) as writer,
    ):
        writer.write_table(table)
    return {}
