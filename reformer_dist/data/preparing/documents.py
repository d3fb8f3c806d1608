"""From a slice's records to a part's tokens: encoding, leaving out what is bad, and noting which document has what."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from reformer_dist.config.data import DataConfig
from reformer_dist.data.preparing.manifest import SPLITS
from reformer_dist.data.preparing.token_rows import TokenRows
from reformer_dist.data.reading.files import StoreError, read_small
from reformer_dist.data.reading.formats import FileSlice
from reformer_dist.data.reading.records import (
    NotText,
    Record,
    Records,
    is_binary,
    is_small_text,
    read_fasta,
    read_jsonl,
    read_text,
)
from reformer_dist.data.reading.tables import decode_image, read_array, read_csv, read_image, read_parquet
from reformer_dist.data.tokenizers.tokenizer import BadDocument, Kind, Tokenizer, join_encoded
from reformer_dist.storage.stores import one_line

HELD_TOKENS = 8 << 20
"""Tokens of a text that are held back until all of it is known to be good, so that nothing is written twice."""
BATCH_BYTES = 1 << 18
"""Text of small documents that is encoded at a time."""
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


def splits_of(keys: Iterable[str], data: DataConfig) -> NDArray[np.int8]:
    """Index in SPLITS of the split that the hash of each document's name or group puts it in."""
    digests = b"".join([xxhash.xxh3_64_digest(key.encode("utf-8", "surrogatepass")) for key in keys])
    shares = np.frombuffer(digests, ">u8") / 2.0**64
    held_out = np.where(shares < data.validation_fraction, SPLITS.index("validation"), SPLITS.index("test"))
    is_train = shares >= data.validation_fraction + data.test_fraction
    return np.where(is_train, SPLITS.index("train"), held_out).astype(np.int8)


@dataclass(slots=True)
class _Batch:
    """Whole documents that are not yet encoded: lists of equal length.

    Attributes:
        names: their names.
        contents: what they hold.
        keys: what decides their splits.
        pieces: where they are from.
        num_bytes: of their contents.
    """

    names: list[str] = field(default_factory=list)
    contents: list[Any] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    pieces: list[FileSlice] = field(default_factory=list)
    num_bytes: int = 0

    def add(self, name: str, content: Any, key: str, piece: FileSlice) -> None:
        self.names.append(name)
        self.contents.append(content)
        self.keys.append(key)
        self.pieces.append(piece)

    def add_all(self, records: Records, piece: FileSlice) -> None:
        names, groups = records.names, records.groups
        self.names += names
        self.contents += records.contents
        self.keys += (
            names
            if groups is None
            else [name if group is None else group for name, group in zip(names, groups, strict=True)]
        )
        self.pieces += [piece] * len(names)
        self.num_bytes += sum(map(len, records.contents))


class Documents:
    """Takes documents from slices to the token file, and keeps count of them.

    Small documents are collected and encoded together; a long text is encoded piece by piece.

    Attributes:
        bad_files: URLs of texts that must be left out but are already written in part, here or in another part, and why.
    """

    def __init__(self, data: DataConfig, tokenizer: Tokenizer, rows: TokenRows, left_out: Sequence[str] = ()) -> None:
        self._data = data
        self._tokenizer = tokenizer
        self._rows = rows
        self._batches: list[pa.RecordBatch] = []
        self._waiting = _Batch()
        self._binary: list[str] = []
        self._num_bad = len(left_out)
        self._problems = list(left_out[:SHOWN_PROBLEMS])
        self.bad_files: dict[str, str] = {}

    def table(self) -> pa.Table:
        """What was written, a row for each document, as PARTS_SCHEMA says."""
        return pa.Table.from_batches(self._batches, PARTS_SCHEMA).combine_chunks()

    def left_out(self) -> dict[str, Any]:
        """The fields of PartResult on what was left out."""
        return {"binary": self._binary, "num_bad": self._num_bad, "problems": self._problems}

    def read(self, piece: FileSlice) -> None:
        """Write the documents of a slice, or collect them for `finish`.

        Raises:
            StoreError: the file cannot be read, or a document is bad and must not be left out.
        """
        if is_small_text(piece):
            self._read_small(piece)
        elif piece.format == "text":
            self.finish()
            self._read_long(piece)
        else:
            self._collect(piece)

    def finish(self) -> None:
        """Write what is collected.

        Raises:
            StoreError: a document is bad and must not be left out.
        """
        waiting, self._waiting = self._waiting, _Batch()
        if not waiting.names:
            return
        try:
            contents = waiting.contents
            if self._tokenizer.kind == "image":
                contents = list(map(self._levels, contents))
            tokens, lengths = self._tokenizer.encode_all(contents)
        except BadDocument:
            waiting, encoded = self._good(waiting)
            if not encoded:
                return
            tokens, lengths = join_encoded(encoded)
        sources = [piece.file.source for piece in waiting.pieces]
        self._write(waiting.names, waiting.keys, sources, tokens, lengths, continues=False)

    def _read_small(self, piece: FileSlice) -> None:
        """Collect a small text: what `_collect` does, in as little time as there can be for a file of a few bytes."""
        file = piece.file
        content = read_small(file.url, file.size or 0)
        if content is None:
            self._collect(piece)
        elif file.found and is_binary(content):
            self._binary.append(file.url)
        else:
            self._waiting.add(file.name, content, file.name, piece)
            self._count(len(content))

    def _collect(self, piece: FileSlice) -> None:
        """Collect the documents of a slice."""
        is_text = self._tokenizer.kind == "text"
        for record in self._records(piece):
            if isinstance(record, Records):
                self._waiting.add_all(record, piece)
                self._count(0)
            elif record.problem:
                self._leave_out(record.name, piece, record.problem)
            else:
                key = record.name if record.group is None else record.group
                self._waiting.add(record.name, record.content, key, piece)
                self._count(len(record.content) if is_text else BATCH_BYTES)  # images come one by one

    def _count(self, num_bytes: int) -> None:
        """Note that so many bytes more are waiting, and write what waits if that is enough."""
        self._waiting.num_bytes += num_bytes
        if self._waiting.num_bytes >= BATCH_BYTES:
            self.finish()

    def _good(self, waiting: _Batch) -> tuple[_Batch, list[NDArray[Any]]]:
        """Those of some documents that can be encoded, and their tokens; the others are left out."""
        good, encoded = _Batch(), []
        for name, content, key, piece in zip(
            waiting.names, waiting.contents, waiting.keys, waiting.pieces, strict=True
        ):
            try:
                levels = content if self._tokenizer.kind == "text" else self._levels(content)
                encoded.append(self._tokenizer.encode(levels))
                good.add(name, content, key, piece)
            except BadDocument as error:
                self._leave_out(name, piece, str(error))
        return good, encoded

    def _read_long(self, piece: FileSlice) -> None:
        """Write a text of several pieces, which is held back as long as it may still turn out to be bad and small."""
        held: list[NDArray[Any]] = []
        num_held = 0
        # Part of the text is in another slice or is written already: leaving it out is more than not writing the rest.
        is_spread = bool(piece.start or piece.stop)
        begins = not piece.start
        try:
            for record in self._records(piece):
                assert isinstance(record, Record), "a text is one document"
                if record.problem:
                    raise BadDocument(record.problem)
                held.append(self._tokenizer.encode(record.content))
                num_held += len(held[-1])
                if num_held > HELD_TOKENS or is_spread:
                    self._write_held(held, piece, continues=not begins)
                    held, num_held, is_spread, begins = [], 0, True, False
        except BadDocument as error:
            self._leave_out(piece.file.name, piece, str(error), is_spread=is_spread)
            return
        self._write_held(held, piece, continues=not begins)

    def _records(self, piece: FileSlice) -> Iterator[Record | Records]:
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
            yield Record(piece.file.name, problem=f"it breaks off or is no {piece.format}: {one_line(error)}")

    def _leave_out(self, name: str, piece: FileSlice, problem: str, *, is_spread: bool = False) -> None:
        where = piece.file.url + (name.removeprefix(piece.file.name) if name.startswith(piece.file.name) else "")
        if not self._data.skip_bad_documents:
            raise StoreError(f"data.sources: {where}: {problem}; --data.skip_bad_documents true leaves it out")
        if is_spread:
            self.bad_files.setdefault(piece.file.url, f"{where}: {problem}")
            return
        self._num_bad += 1
        if len(self._problems) < SHOWN_PROBLEMS:
            self._problems.append(f"{where}: {problem}")

    def _levels(self, content: Any) -> Any:
        """An image's levels. Raises BadDocument for bytes that are no image."""
        if isinstance(content, bytes):
            return decode_image(content, "RGB" if self._tokenizer.name == "rgb" else "L")
        return content

    def _write_held(self, held: list[NDArray[Any]], piece: FileSlice, *, continues: bool) -> None:
        """Write pieces of a text, if there are any."""
        if held:
            tokens = held[0] if len(held) == 1 else np.concatenate(held)
            name, lengths = piece.file.name, np.array([len(tokens)])
            self._write([name], [name], [piece.file.source], tokens, lengths, continues=continues)

    def _write(
        self,
        names: list[str],
        keys: list[str],
        sources: list[int],
        tokens: NDArray[Any],
        lengths: NDArray[np.int64],
        *,
        continues: bool,
    ) -> None:
        splits = splits_of(keys, self._data)
        self._rows.write(tokens, lengths, splits)
        columns = [names, lengths, splits, sources, np.full(len(names), continues)]
        self._batches.append(pa.record_batch(list(map(pa.array, columns, PARTS_SCHEMA.types)), schema=PARTS_SCHEMA))


def read_records(piece: FileSlice, data: DataConfig, kind: Kind) -> Iterator[Record | Records]:
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
