"""One part of a corpus: slices of files in, one token file and a table of its documents out. Ray Data's tasks run this."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from reformer_dist.config.data import DataConfig
from reformer_dist.data.files import StoreError
from reformer_dist.data.formats import FileSlice
from reformer_dist.data.manifest import SPLITS, StoredFile, TokenFile
from reformer_dist.data.records import NotText, Record, read_fasta, read_jsonl, read_text
from reformer_dist.data.sources import SourceFile
from reformer_dist.data.stores import STORE_ERRORS, HashingFile, Store, one_line, open_store, parquet_writer, patiently
from reformer_dist.data.tables import decode_image, read_array, read_csv, read_image, read_parquet
from reformer_dist.data.token_rows import TokenRows
from reformer_dist.data.tokenizers import BadDocument, Kind, Tokenizer, read_tokenizer

HELD_TOKENS = 32 << 20
"""Tokens of a document that are held back until all of it is known to be good."""
PARTS_SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("tokens", pa.int64()),
        ("split", pa.int8()),
        ("source", pa.int16()),
        ("continues", pa.bool_()),
    ]
)
SHOWN_PROBLEMS = 3


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


def split_of(key: str, data: DataConfig) -> int:
    """Index in SPLITS of the split that the hash of a document's name or group puts it in."""
    share = xxhash.xxh3_64_intdigest(key.encode("utf-8", "surrogatepass")) / 2**64
    if share < data.validation_fraction:
        return SPLITS.index("validation")
    return SPLITS.index("test" if share < data.validation_fraction + data.test_fraction else "train")


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
    plan = xxhash.xxh3_64_hexdigest(json.dumps([text, data.model_dump_json(), tokenizer]).encode())
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
        documents = _Documents(data, tokenizer, rows)
        try:
            for piece in part.slices:
                documents.read(piece)
        except StoreError as error:
            return str(error)
    stored = StoredFile(name=name, size=file.size, xxh3=file.hexdigest)
    entry = TokenFile(**stored.model_dump(), tokens=rows.num_tokens, tokens_xxh3=rows.hexdigest)
    fields = {"plan": plan, "file": entry.model_dump(), "counts": rows.counts(), **documents.left_out()}
    table = pa.table(documents.columns, schema=PARTS_SCHEMA).replace_schema_metadata({b"part": json.dumps(fields)})
    with (
        HashingFile(store, _result_name(part.index)) as file,
        parquet_writer(file, table.schema, store_schema=True) as writer,
    ):
        writer.write_table(table)
    return ""


class _Documents:
    """Takes documents from slices to the token file, and keeps count of them."""

    def __init__(self, data: DataConfig, tokenizer: Tokenizer, rows: TokenRows) -> None:
        self._data = data
        self._tokenizer = tokenizer
        self._rows = rows
        self.columns: list[list[Any]] = [[] for _ in PARTS_SCHEMA]
        self._binary: list[str] = []
        self._num_bad = 0
        self._problems: list[str] = []

    def left_out(self) -> dict[str, Any]:
        """The fields of PartResult on what was left out."""
        return {"binary": self._binary, "num_bad": self._num_bad, "problems": self._problems}

    def read(self, piece: FileSlice) -> None:
        """Write the documents of a slice.

        Raises:
            StoreError: the file cannot be read, or a document is bad and must not or cannot be left out.
        """
        held: list[NDArray[Any]] = []
        current: Record | None = None
        is_bad = False
        # Part of the document is in another slice, or was written already, so that it cannot be left out any more.
        is_spread = piece.format == "text" and bool(piece.start or piece.stop)
        for record in self._records(piece):
            if current is None or not record.continues:
                if current is not None and not is_bad:
                    self._write(current, held, piece)
                current, held, is_bad = record, [], False
            if is_bad:
                continue
            try:
                held.append(self._encode(record))
            except BadDocument as error:
                self._leave_out(record.name, piece, str(error), is_spread)
                is_bad = True
            if sum(map(len, held)) > HELD_TOKENS:
                self._write(current, held, piece)
                current, held, is_spread = Record(current.name, group=current.group, continues=True), [], True
        if current is not None and not is_bad:
            self._write(current, held, piece)

    def _records(self, piece: FileSlice) -> Iterator[Record]:
        """The records of a slice; where the file breaks off, a last one that says so."""
        try:
            yield from read_records(piece, self._data, self._tokenizer.kind)
        except StoreError:
            raise
        except NotText:
            self._binary.append(piece.file.url)
        except BadDocument as error:
            yield Record(piece.file.name, problem=str(error))
        except (EOFError, OSError, pa.ArrowException) as error:
            problem = f"it breaks off or is no {piece.format}: {one_line(error)}"
            yield Record(piece.file.name, problem=problem, continues=piece.format == "text")

    def _leave_out(self, name: str, piece: FileSlice, problem: str, is_spread: bool) -> None:
        where = piece.file.url + (name.removeprefix(piece.file.name) if name.startswith(piece.file.name) else "")
        if not self._data.skip_bad_documents:
            raise StoreError(f"data.sources: {where}: {problem}; --data.skip_bad_documents true leaves it out")
        if is_spread:
            raise StoreError(f"data.sources: {where}: {problem}; it is too large to be left out, name the others alone")
        self._num_bad += 1
        if len(self._problems) < SHOWN_PROBLEMS:
            self._problems.append(f"{where}: {problem}")

    def _encode(self, record: Record) -> NDArray[Any]:
        if record.problem:
            raise BadDocument(record.problem)
        content = record.content
        if self._tokenizer.kind == "image" and isinstance(content, bytes):
            content = decode_image(content, "RGB" if self._tokenizer.name == "rgb" else "L")
        return self._tokenizer.encode(content)

    def _write(self, record: Record, tokens: list[NDArray[Any]], piece: FileSlice) -> None:
        split = split_of(record.name if record.group is None else record.group, self._data)
        for some in tokens:
            self._rows.write(some, split)
        row = (record.name, sum(map(len, tokens)), split, piece.file.source, record.continues)
        for column, value in zip(self.columns, row, strict=True):
            column.append(value)


def read_records(piece: FileSlice, data: DataConfig, kind: Kind) -> Iterator[Record]:
    """The documents that begin in a slice."""
    match piece.format:
        case "text":
            return read_text(piece, data)
        case "jsonl":
            return read_jsonl(piece, data)
        case "fasta":
            return read_fasta(piece, data)
        case "csv" | "tsv":
            return read_csv(piece, data)
        case "parquet":
            return read_parquet(piece, data, kind)
        case "array":
            return read_array(piece, data)
        case "image":
            return read_image(piece)
