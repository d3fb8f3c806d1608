"""From a slice's records to a part's tokens: encoding, leaving out what is bad, and noting which document has what."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from reformer_dist.config.sections.data import DataConfig
from reformer_dist.data.preparing.manifest import SPLITS
from reformer_dist.data.preparing.token_rows import TokenRows
from reformer_dist.data.preparing.waiting import WaitingDocuments
from reformer_dist.data.reading.choice import READERS, read_records
from reformer_dist.data.reading.columns import Wanted, wanted_of
from reformer_dist.data.reading.files import StoreError
from reformer_dist.data.reading.records import NotText, Record, Records
from reformer_dist.data.reading.slices import FileSlice
from reformer_dist.data.tokenizers.tokenizer import BadDocument, Encoded, Tokenizer
from reformer_dist.storage.stores import one_line

HELD_TOKENS = 8 << 20
"""Tokens of a text that are held back until all of it is known to be good, so that nothing is written twice."""
BATCH_BYTES = 1 << 18
"""Content of small documents that is encoded at a time."""
SHOWN_PROBLEMS = 100
"""Bad documents of a part that are named, and of a corpus in its manifest."""


def parts_schema(fields: Iterable[str]) -> pa.Schema:
    """Columns of the table of a part's documents: what they are, and how many tokens of each field are in the part."""
    about = [("name", pa.string()), ("split", pa.int8()), ("source", pa.int16()), ("continues", pa.bool_())]
    return pa.schema([*about, *((tokens_column(each), pa.int64()) for each in fields)])


def tokens_column(field: str) -> str:
    """The column of that table with a field's tokens."""
    return f"tokens.{field}"


def splits_of(keys: Iterable[str], data: DataConfig) -> NDArray[np.int8]:
    """Index in SPLITS of the split that the hash of each document's name or group puts it in."""
    digests = b"".join([xxhash.xxh3_64_digest(key.encode("utf-8", "surrogatepass")) for key in keys])
    shares = np.frombuffer(digests, ">u8") / 2.0**64
    held_out = np.where(shares < data.validation_fraction, SPLITS.index("validation"), SPLITS.index("test"))
    is_train = shares >= data.validation_fraction + data.test_fraction
    return np.where(is_train, SPLITS.index("train"), held_out).astype(np.int8)


class Documents:
    """Takes documents from slices to the token files, and keeps count of them.

    Small documents are collected and encoded together; a long text is encoded piece by piece.

    Attributes:
        bad_files: URLs of texts that must be left out but are already written in part, here or in another part, and why.
    """

    def __init__(
        self,
        data: DataConfig,
        tokenizers: Mapping[str, Tokenizer],
        rows: Mapping[str, TokenRows],
        left_out: Sequence[str] = (),
    ) -> None:
        takes = {name: tokenizer.takes for name, tokenizer in tokenizers.items()}
        self._data = data
        self._wanted: Callable[[int], Wanted] = lru_cache(None)(lambda source: wanted_of(data, source, takes))
        self._tokenizers = tokenizers
        self._rows = rows
        self._schema = parts_schema(tokenizers)
        self._batches: list[pa.RecordBatch] = []
        self._waiting = self._empty()
        self._binary: list[str] = []
        self._num_bad = len(left_out)
        self._problems = list(left_out[:SHOWN_PROBLEMS])
        self.bad_files: dict[str, str] = {}

    def table(self) -> pa.Table:
        """What was written, a row for each document, as `parts_schema` says."""
        return pa.Table.from_batches(self._batches, self._schema).combine_chunks()

    def left_out(self) -> dict[str, Any]:
        """The fields of PartResult on what was left out."""
        return {"binary": self._binary, "num_bad": self._num_bad, "problems": self._problems}

    def read(self, piece: FileSlice) -> None:
        """Write the documents of a slice, or collect them for `finish`.

        Raises:
            StoreError: the file cannot be read, or a document is bad and must not be left out.
        """
        reader = READERS[piece.format]
        if reader.read_small is not None:
            try:
                content = reader.read_small(piece)
            except NotText:
                self._binary.append(piece.file.url)
                return
            except BadDocument as error:
                self._leave_out(piece.file.name, piece, str(error))
                return
            if content is not None:
                self._waiting.add_file(content, piece)
                if self._waiting.num_bytes >= BATCH_BYTES:
                    self.finish()
                return
        if reader.is_one_document:
            self.finish()
            self._read_whole(piece)
        else:
            self._collect(piece)

    def finish(self) -> None:
        """Write what is collected.

        Raises:
            StoreError: a document is bad and must not be left out.
        """
        waiting, self._waiting = self._waiting, self._empty()
        if not waiting.names:
            return
        try:
            encoded = self._encoded(waiting.columns)
        except BadDocument:
            waiting, each = self._good(waiting)
            if not each:
                return
            encoded = {name: _joined([document[name] for document in each]) for name in self._tokenizers}
        sources = [piece.file.source for piece in waiting.pieces]
        self._write(waiting.names, waiting.keys, sources, encoded, continues=False)

    def _empty(self) -> WaitingDocuments:
        return WaitingDocuments([[] for _ in self._tokenizers])

    def _collect(self, piece: FileSlice) -> None:
        """Collect the documents of a slice."""
        for record in self._records(piece):
            if isinstance(record, Records):
                self._waiting.add_all(record, piece)
            elif record.problem:
                self._leave_out(record.name, piece, record.problem)
            else:
                key = record.name if record.group is None else record.group
                self._waiting.add(record.name, record.contents, key, piece)
            if self._waiting.num_bytes >= BATCH_BYTES:
                self.finish()

    def _encoded(self, columns: Sequence[Sequence[Any]]) -> dict[str, Encoded]:
        """Tokens of several documents by field. Raises BadDocument if one of them has none, not saying which."""
        encoded = {}
        for (name, tokenizer), contents in zip(self._tokenizers.items(), columns, strict=True):
            try:
                encoded[name] = tokenizer.encode_all(contents)
            except BadDocument as error:
                raise BadDocument(f"{name}: {error}" if len(columns) > 1 else str(error)) from None
        for name, about in self._data.record_fields.items():
            if about.aligned_with is not None:
                other = about.aligned_with
                lengths, others = encoded[name][1], encoded[other][1]
                if (differing := np.flatnonzero(lengths != others)).size:
                    first = differing[0]
                    raise BadDocument(
                        f"{name} has {lengths[first]} tokens, {other}, which it is aligned with, {others[first]}"
                    )
        return encoded

    def _good(self, waiting: WaitingDocuments) -> tuple[WaitingDocuments, list[dict[str, Encoded]]]:
        """Those of some documents that can be encoded, and their tokens; the others are left out."""
        good, encoded = self._empty(), []
        for name, contents, key, piece in zip(
            waiting.names, zip(*waiting.columns, strict=True), waiting.keys, waiting.pieces, strict=True
        ):
            try:
                encoded.append(self._encoded([[content] for content in contents]))
                good.add(name, contents, key, piece)
            except BadDocument as error:
                self._leave_out(name, piece, str(error))
        return good, encoded

    def _read_whole(self, piece: FileSlice) -> None:
        """Write a file that is one document. It is held back as long as it may still turn out to be bad and small."""
        ((name, tokenizer),) = self._tokenizers.items()
        held: list[NDArray[Any]] = []
        num_held = 0
        # Part of the text is in another slice or is written already: leaving it out is more than not writing the rest.
        is_spread = bool(piece.start or piece.stop)
        begins = not piece.start
        try:
            for record in self._records(piece):
                assert isinstance(record, Record), "the file is one document"
                if record.problem:
                    raise BadDocument(record.problem)
                held.append(tokenizer.encode(record.contents[0]))
                num_held += len(held[-1])
                if num_held > HELD_TOKENS or is_spread:
                    self._write_held(name, held, piece, continues=not begins)
                    held, num_held, is_spread, begins = [], 0, True, False
        except BadDocument as error:
            self._leave_out(piece.file.name, piece, str(error), is_spread=is_spread)
            return
        self._write_held(name, held, piece, continues=not begins)

    def _records(self, piece: FileSlice) -> Iterator[Record | Records]:
        """The records of a slice; where the file breaks off, a last one that says so."""
        try:
            yield from read_records(piece, self._wanted(piece.file.source))
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
        if self._data.on_bad == "fail":
            raise StoreError(f"data.sources: {where}: {problem}; --data.on_bad skip leaves it out")
        if is_spread:
            self.bad_files.setdefault(piece.file.url, f"{name}: {problem}")
            return
        self._num_bad += 1
        if len(self._problems) < SHOWN_PROBLEMS:
            self._problems.append(f"{name}: {problem}")

    def _write_held(self, field: str, held: list[NDArray[Any]], piece: FileSlice, *, continues: bool) -> None:
        """Write pieces of a document, if there are any."""
        if held:
            tokens = held[0] if len(held) == 1 else np.concatenate(held)
            name, lengths = piece.file.name, np.array([len(tokens)])
            self._write([name], [name], [piece.file.source], {field: (tokens, lengths)}, continues=continues)

    def _write(
        self,
        names: list[str],
        keys: list[str],
        sources: list[int],
        encoded: Mapping[str, Encoded],
        *,
        continues: bool,
    ) -> None:
        splits = splits_of(keys, self._data)
        for name, (tokens, lengths) in encoded.items():
            self._rows[name].write(tokens, lengths, splits)
        columns = [
            names,
            splits,
            sources,
            np.full(len(names), continues),
            *(lengths for _, lengths in encoded.values()),
        ]
        self._batches.append(pa.record_batch(list(map(pa.array, columns, self._schema.types)), schema=self._schema))


def _joined(documents: Sequence[Encoded]) -> Encoded:
    """Several documents of one field as if they had been encoded together."""
    return np.concatenate([tokens for tokens, _ in documents]), np.concatenate([lengths for _, lengths in documents])
