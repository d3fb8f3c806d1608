"""A prepared corpus: a folder of Parquet files and a manifest, opened, verified and read by position.

Each split is one string of tokens, its documents end to end in order of name, cut into rows of `row_tokens` tokens,
each a row group; so where a token lies follows from its index alone, and a sequence is read from little more than the
row groups that its pieces lie in. `SPLIT-documents.parquet` holds the name and the length of each document.
"""

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from reformer_dist.config import ConfigError
from reformer_dist.data.stores import Store, hash_file, one_line, open_store
from reformer_dist.data.tokenizers import Tokenizer, make_tokenizer

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
SplitName = Literal["train", "validation"]
HeldOut = Literal["documents", "ends"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)


class StoredFile(BaseModel):
    """A file of the corpus, as it was written: name, size in bytes and xxh3-128 of its bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    size: int
    xxh3: str


class TokenFile(StoredFile):
    """A file of tokens: also how many, and the xxh3-128 of the tokens themselves, not of the Parquet around them."""

    tokens: int
    tokens_xxh3: str


class Split(BaseModel):
    """One split: counts, how often each token occurs (boundaries not counted), and its files in order."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    documents: int
    tokens: int
    unigram_counts: tuple[int, ...]
    documents_file: StoredFile
    token_files: tuple[TokenFile, ...]


class Manifest(BaseModel):
    """What manifest.json holds; nothing in it depends on absolute paths, on time or on how the work was divided.

    `hash` covers the tokens, the documents' names and lengths, and the tokenizer. `held_out` says whether validation is
    whole documents or, where there are too few of them, the end of every document. `skipped` counts the binary files
    left out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    schema_version: int
    hash: str
    tokenizer: str
    vocab_size: int
    row_tokens: int
    held_out: HeldOut
    skipped: int
    train: Split
    validation: Split

    def split(self, name: SplitName) -> Split:
        """The split called `name`."""
        return self.train if name == "train" else self.validation


class Corpus:
    """A prepared corpus, open for reading. Pickles as its folder: the copy opens it again."""

    def __init__(self, folder: str, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self.hash = manifest.hash
        self.tokenizer: Tokenizer = make_tokenizer(manifest.tokenizer)
        self._store = open_store(folder)
        self._file_ends = {
            name: np.cumsum([file.tokens for file in manifest.split(name).token_files]) for name in SPLITS
        }
        self._open_file: Callable[..., pq.ParquetFile] = lru_cache(32)(self._open_token_file)
        self._row: Callable[..., NDArray[Any]] = lru_cache(256)(self._read_row)

    @classmethod
    def open(cls, folder: str, *, verify: bool = True) -> "Corpus":
        """Open the corpus in a folder or at a URL.

        Args:
            folder: where manifest.json lies.
            verify: compare the size and hash of every file with the manifest. Readers of a corpus that was verified
                once may leave it out; a page whose checksum is wrong is an error at any time.

        Raises:
            ConfigError: no manifest, one of another version, or a file that is missing, truncated or altered (named).
        """
        try:
            store = open_store(folder)
        except ValueError as error:
            raise ConfigError(f"prepared corpus {folder}: {error}") from None
        corpus = cls(folder, _read_manifest(store, folder))
        if verify:
            corpus._verify()
        return corpus

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.folder,)

    def document_lengths(self, split: SplitName) -> NDArray[np.int64]:
        """Tokens of each document of a split, int64 [documents], in order of name."""
        lengths: NDArray[np.int64] = self._documents(split, "tokens").to_numpy()
        return lengths

    def document_names(self, split: SplitName) -> list[str]:
        """Name of each document of a split."""
        names: list[str] = self._documents(split, "name").to_pylist()
        return names

    def read(self, split: SplitName, start: int, stop: int) -> NDArray[Any]:
        """Tokens `start` to `stop` of a split's string of tokens, in the tokenizer's dtype.

        Raises:
            OSError: a file that cannot be read, or a page whose checksum is wrong; the message names it.
        """
        ends, row_tokens = self._file_ends[split], self.manifest.row_tokens
        assert 0 <= start <= stop <= ends[-1]
        pieces = []
        while start < stop:
            file = int(np.searchsorted(ends, start, side="right"))
            file_start = int(ends[file - 1]) if file else 0
            row, begin = divmod(start - file_start, row_tokens)
            piece = self._row(split, file, row)[begin : begin + stop - start]
            pieces.append(piece)
            start += len(piece)
        return np.concatenate(pieces) if pieces else np.empty(0, self.tokenizer.dtype)

    def unigram_bits(self, split: SplitName) -> float:
        """Bits a scored position (a token or a document's end) costs under add-one unigram frequencies of train."""
        model = self._scored_counts("train") + 1.0
        scored = self._scored_counts(split)
        return float(-(scored * np.log2(model / model.sum())).sum() / scored.sum())

    def _scored_counts(self, split: SplitName) -> NDArray[np.float64]:
        counts = np.array(self.manifest.split(split).unigram_counts, np.float64)
        counts[self.tokenizer.boundary] += self.manifest.split(split).documents
        return counts

    def _documents(self, split: SplitName, column: str) -> pa.ChunkedArray:
        name = self.manifest.split(split).documents_file.name
        with self._naming(name):
            source = self._store.filesystem.open_input_file(self._store.child(name))
            return pq.read_table(source, columns=[column], page_checksum_verification=True)[column]

    def _open_token_file(self, split: SplitName, file: int) -> pq.ParquetFile:
        path = self._store.child(self.manifest.split(split).token_files[file].name)
        return pq.ParquetFile(self._store.filesystem.open_input_file(path), page_checksum_verification=True)

    def _read_row(self, split: SplitName, file: int, row: int) -> NDArray[Any]:
        with self._naming(self.manifest.split(split).token_files[file].name):
            table = self._open_file(split, file).read_row_group(row, columns=["tokens"], use_threads=False)
        return np.frombuffer(table["tokens"][0].as_buffer(), self.tokenizer.dtype)

    def _naming(self, name: str) -> "_Naming":
        return _Naming(self._store.child(name))

    def _verify(self) -> None:
        for split in (self.manifest.train, self.manifest.validation):
            files = (split.documents_file, *split.token_files)
            infos = self._store.filesystem.get_file_info([self._store.child(file.name) for file in files])
            for file, info in zip(files, infos, strict=True):
                if info.type == pafs.FileType.NotFound:
                    raise self._broken(file.name, "is missing")
                if info.size != file.size:
                    raise self._broken(file.name, f"has {info.size} bytes where the manifest says {file.size}")
            for file in files:
                if hash_file(self._store, file.name) != file.xxh3:
                    raise self._broken(file.name, "does not have the hash that the manifest says")

    def _broken(self, name: str, what: str) -> ConfigError:
        return ConfigError(f"prepared corpus: {self._store.child(name)} {what}; delete the folder to prepare it again")


class _Naming:
    """Turns what pyarrow raises inside the block into an OSError that names the file."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError | pa.ArrowException):
            raise OSError(f"prepared corpus: {self._path} cannot be read: {one_line(error)}") from error


def _reopen(folder: str) -> Corpus:
    return Corpus.open(folder, verify=False)


def _read_manifest(store: Store, folder: str) -> Manifest:
    try:
        with store.filesystem.open_input_stream(store.child(MANIFEST)) as stream:
            tree = json.loads(stream.read())
        version = tree.get("schema_version")
        if version != SCHEMA_VERSION:
            raise ConfigError(
                f"prepared corpus {folder}: schema version {version} instead of {SCHEMA_VERSION}; prepare it again"
            )
        return Manifest.model_validate(tree)
    except FileNotFoundError:
        raise ConfigError(f"prepared corpus {folder}: no {MANIFEST} there; jobs/prepare_data.py makes one") from None
    except (json.JSONDecodeError, AttributeError, ValidationError) as error:
        raise ConfigError(f"prepared corpus {folder}: {MANIFEST} is not one: {one_line(error)}") from None
