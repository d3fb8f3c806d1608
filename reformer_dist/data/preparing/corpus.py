"""A prepared corpus: a folder of Parquet files and a manifest, opened, verified and read by position.

Each field's documents lie end to end, in order of name, in one string of tokens, which the field's token files cut into
rows; so where a token lies follows from its index alone. The table of documents says which of them, or which part of
them, is in which split, and how many tokens each field of it has.
"""

from functools import cached_property
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from reformer_dist.config.sections.data import TEXT, field_named
from reformer_dist.data.preparing.manifest import (
    SPLITS,
    TOKENIZER,
    Manifest,
    ScopeName,
    length_column,
    read_manifest,
)
from reformer_dist.data.preparing.token_rows import TokenReader
from reformer_dist.data.tokenizers.choice import read_tokenizer
from reformer_dist.data.tokenizers.tokenizer import Tokenizer
from reformer_dist.errors import ConfigError
from reformer_dist.storage.hashed_files import find_damage
from reformer_dist.storage.stores import STORE_ERRORS, Store, naming, one_line, open_store

Int64s = NDArray[np.int64]


class Corpus:
    """A prepared corpus, open for reading. Pickles as its folder: the copy opens it again.

    Methods that take a field raise ConfigError for one that the corpus does not have. To those that take a split, "all" is
    every document, whole.

    The field called text is the one called target where there is no text.

    Attributes:
        folder: where it lies.
        manifest: what it says of itself.
        hash: its content hash, which decides the order of the samples.
        fields: names of its fields.
    """

    def __init__(self, folder: str, manifest: Manifest, store: Store) -> None:
        self.folder = folder
        self.manifest = manifest
        self.hash = manifest.hash
        self.fields = tuple(manifest.fields)
        self._store = store
        self._tokenizers = {
            field: read_stored_tokenizer(store, entry.tokenizer_file.name) for field, entry in manifest.fields.items()
        }
        self._tokens = {
            field: TokenReader(store, entry.token_files, manifest.row_tokens, self._tokenizers[field].dtype)
            for field, entry in manifest.fields.items()
        }

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
        manifest = read_manifest(store, folder)
        if verify and (damage := find_damage(store, manifest.files)):
            raise ConfigError(f"prepared corpus {folder}: {damage}; delete the folder to prepare it again")
        return cls(folder, manifest, store)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.folder,)

    @property
    def tokenizer(self) -> Tokenizer:
        """What made the tokens of a corpus of one field. Raises ConfigError if there are several."""
        if len(self.fields) > 1:
            raise ConfigError(
                f"prepared corpus {self.folder} has several fields ({', '.join(self.fields)}), where one is expected;"
                " a corpus prepared without data.fields works"
            )
        return self._tokenizers[self.fields[0]]

    def tokenizer_of(self, field: str = TEXT) -> Tokenizer:
        """What made the tokens of a field."""
        return self._tokenizers[self._named(field)]

    def aligned_with(self, field: str) -> str | None:
        """The field that has as many tokens in every document and shares positions with this one, if there is one."""
        return self.manifest.fields[self._named(field)].aligned_with

    def document_lengths(self, split: ScopeName, field: str = TEXT) -> Int64s:
        """Tokens of a field that each document of a split has in it, int64 [documents], in order of name."""
        lengths: Int64s = self._lengths_in(split, field)[self._members[split]]
        return lengths

    def document_starts(self, split: ScopeName, field: str = TEXT) -> Int64s:
        """Where the tokens of each document of a split begin in the field's string of tokens, int64 [documents]."""
        all_lengths = self._lengths(field)
        starts: Int64s = np.cumsum(all_lengths.sum(axis=0)) - all_lengths.sum(axis=0)
        if split != "all":
            starts = starts + (np.cumsum(all_lengths, axis=0) - all_lengths)[SPLITS.index(split)]
        return starts[self._members[split]]

    def document_names(self, split: ScopeName) -> list[str]:
        """Name of each document of a split."""
        names: list[str] = self._documents.column("name").filter(self._members[split]).to_pylist()
        return names

    def document_sources(self, split: ScopeName) -> NDArray[np.int16]:
        """Index of the source of each document of a split, int16 [documents]."""
        sources: NDArray[np.int16] = self._documents.column("source").to_numpy()[self._members[split]]
        return sources

    def read(self, start: int, stop: int, field: str = TEXT) -> NDArray[Any]:
        """Tokens `start` to `stop` of a field's string of tokens, in its tokenizer's dtype.

        Raises:
            OSError: a file that cannot be read, or a page whose checksum is wrong; the message names it.
        """
        return self._tokens[self._named(field)].read(start, stop)

    def _named(self, field: str) -> str:
        """The name that a field has here: the text may be called target."""
        name = field_named(field, self.fields)
        if name not in self.fields:
            raise ConfigError(
                f"prepared corpus {self.folder} has no field {field}; its fields: {', '.join(self.fields)}"
            )
        return name

    @cached_property
    def _documents(self) -> Any:
        name = self.manifest.documents_file.name
        with naming(self._store, name):
            source = self._store.filesystem.open_input_file(self._store.child(name))
            return pq.read_table(source, page_checksum_verification=True)

    def _lengths(self, field: str) -> Int64s:
        """Tokens of a field that each document has in each split, int64 [splits, documents]."""
        columns = (length_column(self.fields, self._named(field), split) for split in SPLITS)
        return np.stack([self._documents.column(name).to_numpy() for name in columns])

    def _lengths_in(self, split: ScopeName, field: str) -> Int64s:
        """The same in one split, or in all of them, int64 [documents]."""
        lengths = self._lengths(field)
        in_split: Int64s = lengths.sum(axis=0) if split == "all" else lengths[SPLITS.index(split)]
        return in_split

    @cached_property
    def _members(self) -> dict[ScopeName, NDArray[np.bool_]]:
        """Whether each document is in a split, bool [documents]: whether any field of it has a token there."""
        scopes: tuple[ScopeName, ...] = (*SPLITS, "all")
        return {
            scope: np.any([self._lengths_in(scope, field) > 0 for field in self.fields], axis=0) for scope in scopes
        }


def read_stored_tokenizer(store: Store, name: str = TOKENIZER) -> Tokenizer:
    """The tokenizer that a corpus or a checkpoint keeps in its folder.

    Raises:
        ConfigError: there is none, or it is damaged.
    """
    path = store.child(name)
    try:
        with store.filesystem.open_input_stream(path, compression=None) as stream:
            return read_tokenizer(stream.read().decode())
    except (*STORE_ERRORS, ValueError) as error:
        raise ConfigError(f"{path} is no tokenizer that can be read: {one_line(error)}") from None


def _reopen(folder: str) -> Corpus:
    return Corpus.open(folder, verify=False)
