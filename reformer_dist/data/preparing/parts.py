"""One part of a corpus: slices of files in, a token file a field and a table of documents out. Ray Data's tasks run this."""

import json
import zlib
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import xxhash

from reformer_dist.config.sections.data import DataConfig
from reformer_dist.data.preparing.documents import Documents
from reformer_dist.data.preparing.manifest import TokenFile, file_name
from reformer_dist.data.preparing.token_rows import TokenRows
from reformer_dist.data.reading.files import StoreError
from reformer_dist.data.reading.finding.sources import SourceFile
from reformer_dist.data.reading.slices import FileSlice
from reformer_dist.data.tokenizers.choice import read_tokenizer
from reformer_dist.storage.hashed_files import HashingFile
from reformer_dist.storage.parquet import parquet_writer
from reformer_dist.storage.stores import STORE_ERRORS, Store, not_written, open_store, patiently

RESULT = b"result"
"""Key under which a part's note holds, as JSON, what is not in its table."""


@dataclass(frozen=True)
class Part:
    """Slices of consecutive files, written as one file for each field.

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
        slices = list(zip(*(piece[1:-1] for piece in self.slices), strict=True))
        tree = {"index": self.index, "files": files, "slices": slices, "left_out": self.left_out}
        siblings = [[(tuple(file), *rest) for file, *rest, _ in piece.siblings] for piece in self.slices]
        return orjson.dumps(tree | ({"siblings": siblings} if any(siblings) else {}))

    @classmethod
    def from_json(cls, text: bytes) -> "Part":
        """The part that was written down."""
        tree = orjson.loads(text)
        files = map(SourceFile, *tree["files"]) if tree["files"] else ()
        slices = tuple(map(FileSlice, files, *tree["slices"]))
        if siblings := tree.get("siblings"):
            slices = tuple(
                piece._replace(siblings=tuple(FileSlice(SourceFile(*file), *rest) for file, *rest in each))
                for piece, each in zip(slices, siblings, strict=True)
            )
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
    """What a finished part holds, kept beside its token files until the corpus is whole.

    Attributes:
        plan: hash of what it was made from.
        files: for each field its token file's entry in the manifest.
        counts: for each field and each split how often each token occurs.
        binary: files left out because they are no text.
        num_bad: documents left out because they are bad, and `problems`, the first few of them.
        documents: the rows of `parts_schema`.
    """

    plan: str
    files: dict[str, TokenFile]
    counts: dict[str, list[list[int]]]
    binary: list[str] = field(default_factory=list)
    num_bad: int = 0
    problems: list[str] = field(default_factory=list)
    documents: pa.Table = None


def write_part(table: pa.Table, data: DataConfig, tokenizers: Mapping[str, str], folder: str) -> pa.Table:
    """Read, tokenise and write one part, unless an earlier attempt has finished it (the task of Ray Data).

    Args:
        table: one row, as `Part.to_row` makes it.
        data: formats, columns and splits.
        tokenizers: for each field its tokenizer's JSON.
        folder: where the token files go.

    Returns:
        One row: the part's index, whether it was there, in `error` what went wrong in one line, and in `bad` as JSON
        the files that must be left out of all parts before this one can be written, with the reasons.
    """
    text = zlib.decompress(table["part"][0].as_py())
    part, store = Part.from_json(text), open_store(folder)
    # The folder's name stands for `data`.
    plan = xxhash.xxh3_64_hexdigest(text + json.dumps(dict(tokenizers)).encode())
    row: dict[str, Any] = {"index": part.index, "was_there": False, "error": "", "bad": "{}"}
    names = {name: file_name(tokenizers, name, f"tokens-{part.index:05d}.parquet") for name in tokenizers}
    try:
        row["was_there"] = _is_finished(store, part.index, plan)
        if not row["was_there"]:
            _delete_result(store, part.index)
            row |= patiently(lambda: _write(part, plan, data, tokenizers, store, names))
    except STORE_ERRORS as error:
        row["error"] = not_written(store, " or ".join(names.values()), error)
    return pa.Table.from_pylist([row])


def read_part(store: Store, index: int) -> PartResult:
    """What a finished part holds. Raises KeyError for a note that is none of ours."""
    with store.filesystem.open_input_file(store.child(_result_name(index))) as file:
        table = pq.read_table(file)
    about = json.loads((table.schema.metadata or {})[RESULT])
    files = {name: TokenFile(**entry) for name, entry in about["files"].items()}
    return PartResult(**{**about, "files": files, "documents": table.replace_schema_metadata()})


def _is_finished(store: Store, index: int, plan: str) -> bool:
    if store.filesystem.get_file_info(store.child(_result_name(index))).type != pafs.FileType.File:
        return False
    try:
        result = read_part(store, index)
    except (pa.ArrowException, OSError, KeyError):
        return False  # it was cut off while being written, or another release wrote it
    infos = store.filesystem.get_file_info([store.child(file.name) for file in result.files.values()])
    is_whole = all(info.size == file.size for info, file in zip(infos, result.files.values(), strict=True))
    return result.plan == plan and is_whole


def _delete_result(store: Store, index: int) -> None:
    """Delete the note of a part whose token files are about to be replaced."""
    path = store.child(_result_name(index))
    if store.filesystem.get_file_info(path).type == pafs.FileType.File:
        store.filesystem.delete_file(path)


def _result_name(index: int) -> str:
    return f"part-{index:05d}.parquet"


_tokenizer = lru_cache(16)(read_tokenizer)


def _write(
    part: Part, plan: str, data: DataConfig, tokenizers: Mapping[str, str], store: Store, names: Mapping[str, str]
) -> dict[str, str]:
    """Write a part; returns the fields `error` or `bad` of `write_part`'s row if its sources are not as they should be."""
    made = {name: _tokenizer(definition) for name, definition in tokenizers.items()}
    with ExitStack() as stack:
        files = {name: stack.enter_context(HashingFile(store, names[name])) for name in made}
        rows = {name: stack.enter_context(TokenRows(files[name], tokenizer)) for name, tokenizer in made.items()}
        documents = Documents(data, made, rows, part.left_out)
        try:
            for piece in part.slices:
                documents.read(piece)
            documents.finish()
        except StoreError as error:
            return {"error": str(error)}
    if documents.bad_files:
        return {"bad": json.dumps(documents.bad_files)}
    entries = {
        name: TokenFile(
            name=names[name],
            size=files[name].size,
            xxh3=files[name].hexdigest,
            tokens=rows[name].num_tokens,
            tokens_xxh3=rows[name].hexdigest,
        ).model_dump()
        for name in made
    }
    counts = {name: rows[name].counts() for name in made}
    about = {"plan": plan, "files": entries, "counts": counts, **documents.left_out()}
    table = documents.table().replace_schema_metadata({RESULT: json.dumps(about)})
    with (
        HashingFile(store, _result_name(part.index)) as file,
        parquet_writer(file, table.schema, store_schema=True) as writer,
    ):
        writer.write_table(table)
    return {}
