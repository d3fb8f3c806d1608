"""A prepared corpus: a folder of Parquet files and a manifest, opened, verified and read by position.

All documents lie end to end, in order of name, in one string of tokens, which the token files cut into rows; so where a
token lies follows from its index alone. The table of documents says which of them, or which part of them, is in which
split.
"""

from functools import cached_property
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from reformer_dist.data.preparing.manifest import SPLITS, TOKENIZER, Manifest, SplitName, read_manifest
from reformer_dist.data.preparing.token_rows import TokenReader
from reformer_dist.data.tokenizers.choice import read_tokenizer
from reformer_dist.data.tokenizers.tokenizer import Tokenizer
from reformer_dist.errors import ConfigError
from reformer_dist.storage.hashed_files import find_damage
from reformer_dist.storage.stores import STORE_ERRORS, Store, naming, one_line, open_store

Int64s = NDArray[np.int64]


class Corpus:
    """A prepared corpus, open for reading. Pickles as its folder: the copy opens it again.

    Attributes:
        folder: where it lies.
        manifest: what it says of itself.
        hash: its content hash, which decides the order of the samples.
        tokenizer: what made its tokens.
    """

    def __init__(self, folder: str, manifest: Manifest, store: Store) -> None:
        self.folder = folder
        self.manifest = manifest
        self.hash = manifest.hash
        self._store = store
        self.tokenizer = read_stored_tokenizer(store)
        self._tokens = TokenReader(store, manifest.token_files, manifest.row_tokens, self.tokenizer.dtype)

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

    def document_lengths(self, split: SplitName) -> Int64s:
        """Tokens that each document of a split has in it, int64 [documents], in order of name."""
        lengths = self._lengths[split]
        return lengths[lengths > 0]

    def document_starts(self, split: SplitName) -> Int64s:
        """Where the tokens of each document of a split begin in the corpus's string of tokens, int64 [documents]."""
        all_lengths = np.stack([self._lengths[name] for name in SPLITS])
        ends = np.cumsum(all_lengths.sum(axis=0))
        before = np.cumsum(all_lengths, axis=0) - all_lengths
        starts: Int64s = (ends - all_lengths.sum(axis=0) + before[SPLITS.index(split)])[self._lengths[split] > 0]
        return starts

    def document_names(self, split: SplitName) -> list[str]:
        """Name of each document of a split."""
        names: list[str] = self._documents.column("name").filter(self._lengths[split] > 0).to_pylist()
        return names

    def document_sources(self, split: SplitName) -> NDArray[np.int16]:
        """Index of the source of each document of a split, int16 [documents]."""
        sources: NDArray[np.int16] = self._documents.column("source").to_numpy()[self._lengths[split] > 0]
        return sources

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Tokens `start` to `stop` of the corpus's string of tokens, in the tokenizer's dtype.

        Raises:
            OSError: a file that cannot be read, or a page whose checksum is wrong; the message names it.
        """
        return self._tokens.read(start, stop)

    @cached_property
    def _documents(self) -> Any:
        name = self.manifest.documents_file.name
        with naming(self._store, name):
            source = self._store.filesystem.open_input_file(self._store.child(name))
            return pq.read_table(source, page_checksum_verification=True)

    @cached_property
    def _lengths(self) -> dict[SplitName, Int64s]:
        return {name: self._documents.column(name).to_numpy() for name in SPLITS}


def read_stored_tokenizer(store: Store) -> Tokenizer:
    """The tokenizer that a corpus or a checkpoint keeps in its folder.

    Raises:
        ConfigError: there is none, or it is damaged.
    """
    path = store.child(TOKENIZER)
    try:
        with store.filesystem.open_input_stream(path, compression=None) as stream:
            return read_tokenizer(stream.read().decode())
    except (*STORE_ERRORS, ValueError) as error:
        raise ConfigError(f"{path} is no tokenizer that can be read: {one_line(error)}") from None


def _reopen(folder: str) -> Corpus:
    return Corpus.open(folder, verify=False)
