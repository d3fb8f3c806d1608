"""One part of a corpus: slices of files in, one token file and a table of its documents out. Ray Data's tasks run this."""

import json
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import xxhash

from reformer_dist.config.data import DataConfig
from reformer_dist.data.documents import Documents
from reformer_dist.data.files import StoreError
from reformer_dist.data.formats import FileSlice
from reformer_dist.data.manifest import StoredFile, TokenFile
from reformer_dist.data.sources import SourceFile
from reformer_dist.data.stores import STORE_ERRORS, HashingFile, Store, one_line, open_store, parquet_writer, patiently
from reformer_dist.data.token_rows import TokenRows
from reformer_dist.data.tokenizers import Tokenizer, read_tokenizer


@dataclass(frozen=True)
class Part:
    """Slices of consecutive files, written as one file; `index` is its number."""

    index: int
    slices: tuple[FileSlice, ...]

    def to_json(self) -> str:
        """What `from_json` makes the same part of."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Part":
        """The part that was written down."""
        tree = json.loads(text)
        slices = tuple(FileSlice(**{**piece, "file": SourceFile(**piece["file"])}) for piece in tree["slices"])
        return cls(tree["index"], slices)


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
        table: one row, a `Part` as JSON.
        data: formats, fields and splits.
        tokenizer: the tokenizer's JSON.
        folder: where the token file goes.

    Returns:
        One row: the part's index, whether it was there, and in `error` what went wrong in one line.
    """
    text = table["part"][0].as_py()
    part, store = Part.from_json(text), open_store(folder)
    plan = xxhash.xxh3_64_hexdigest(json.dumps([text, tokenizer]).encode())  # the folder's name stands for `data`
    row: dict[str, Any] = {"index": part.index, "was_there": False, "error": ""}
    name = f"tokens-{part.index:05d}.parquet"
    try:
        row["was_there"] = _is_finished(store, part.index, plan)
        if not row["was_there"]:
            row["error"] = patiently(lambda: _write(part, plan, data, _tokenizer(tokenizer), store, name))
    except STORE_ERRORS as error:
        row["error"] = f"train.storage: {store.child(name)} cannot be written: {one_line(error)}"
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


def _result_name(index: int) -> str:
    return f"part-{index:05d}.parquet"


@lru_cache(1)
def _tokenizer(text: str) -> Tokenizer:
    return read_tokenizer(text)


def _write(part: Part, plan: str, data: DataConfig, tokenizer: Tokenizer, store: Store, name: str) -> str:
    """Write a part; returns what is wrong with its sources, or nothing."""
    with HashingFile(store, name) as file, TokenRows(file, tokenizer) as rows:
        documents = Documents(data, tokenizer, rows)
        try:
            for piece in part.slices:
                documents.read(piece)
        except StoreError as error:
            return str(error)
    stored = StoredFile(name=name, size=file.size, xxh3=file.hexdigest)
    entry = TokenFile(**stored.model_dump(), tokens=rows.num_tokens, tokens_xxh3=rows.hexdigest)
    fields = {"plan": plan, "file": entry.model_dump(), "counts": rows.counts(), **documents.left_out()}
    table = documents.table().replace_schema_metadata({b"part": json.dumps(fields)})
    with (
        HashingFile(store, _result_name(part.index)) as file,
        parquet_writer(file, table.schema, store_schema=True) as writer,
    ):
        writer.write_table(table)
    return ""
