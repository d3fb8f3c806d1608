"""From a slice's records to a part's tokens: encoding, leaving out what is bad, and noting which document has what."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from reformer_dist.config.data import DataConfig
from reformer_dist.data.files import StoreError
from reformer_dist.data.formats import FileSlice
from reformer_dist.data.manifest import SPLITS
from reformer_dist.data.records import NotText, Record, read_fasta, read_jsonl, read_text
from reformer_dist.data.stores import one_line
from reformer_dist.data.tables import decode_image, read_array, read_csv, read_image, read_parquet
from reformer_dist.data.token_rows import TokenRows
from reformer_dist.data.tokenizers import BadDocument, Kind, Tokenizer

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


def split_of(key: str, data: DataConfig) -> int:
    """Index in SPLITS of the split that the hash of a document's name or group puts it in."""
    share = xxhash.xxh3_64_intdigest(key.encode("utf-8", "surrogatepass")) / 2**64
    if share < data.validation_fraction:
        return SPLITS.index("validation")
    return SPLITS.index("test" if share < data.validation_fraction + data.test_fraction else "train")


class Documents:
    """Takes documents from slices to the token file, and keeps count of them."""

    def __init__(self, data: DataConfig, tokenizer: Tokenizer, rows: TokenRows) -> None:
        self._data = data
        self._tokenizer = tokenizer
        self._rows = rows
        self._entries: list[tuple[Any, ...]] = []
        self._binary: list[str] = []
        self._num_bad = 0
        self._problems: list[str] = []

    def table(self) -> pa.Table:
        """What was written, a row for each document, as PARTS_SCHEMA says."""
        columns = [list(column) for column in zip(*self._entries, strict=True)] or [[] for _ in PARTS_SCHEMA]
        return pa.table(columns, schema=PARTS_SCHEMA)

    def left_out(self) -> dict[str, Any]:
        """The fields of PartResult on what was left out."""
        return {"binary": self._binary, "num_bad": self._num_bad, "problems": self._problems}

    def read(self, piece: FileSlice) -> None:
        """Write the documents of a slice.

        Raises:
            StoreError: the file cannot be read, or a document is bad and must not or cannot be left out.
        """
        current: Record | None = None
        held: list[NDArray[Any]] = []
        num_held = 0
        # Part of the document is in another slice, or was written already, so that it cannot be left out any more.
        is_spread = in_slices = piece.format == "text" and bool(piece.start or piece.stop)
        is_bad = False
        for record in self._records(piece):
            if current is None or not record.continues:
                self._write(current, held, piece)
                current, held, num_held, is_bad, is_spread = record, [], 0, False, in_slices
            if is_bad:
                continue
            try:
                tokens = self._encode(record)
            except BadDocument as error:
                self._leave_out(record.name, piece, str(error), is_spread)
                held, is_bad = [], True
                continue
            held.append(tokens)
            num_held += len(tokens)
            if num_held > HELD_TOKENS:
                self._write(current, held, piece)
                current, held, num_held = Record(current.name, group=current.group, continues=True), [], 0
                is_spread = True
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

    def _write(self, record: Record | None, tokens: list[NDArray[Any]], piece: FileSlice) -> None:
        """Write what is held of a document, if anything is."""
        if record is None or not tokens:
            return
        split = split_of(record.name if record.group is None else record.group, self._data)
        for some in tokens:
            self._rows.write(some, split)
        num_tokens = sum(map(len, tokens))
        self._entries.append((record.name, num_tokens, split, piece.file.source, record.continues))


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
