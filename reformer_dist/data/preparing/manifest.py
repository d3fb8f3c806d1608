"""What a corpus says of itself: the manifest's fields, read and checked."""

import json
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from reformer_dist.config.data import TokenizerName
from reformer_dist.errors import ConfigError
from reformer_dist.storage.hashed_files import StoredFile
from reformer_dist.storage.stores import Store, one_line

SCHEMA_VERSION = 3
MANIFEST, DOCUMENTS, TOKENIZER = "manifest.json", "documents.parquet", "tokenizer.json"
SplitName = Literal["train", "validation", "test"]
HeldOut = Literal["documents", "ends"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)


class TokenFile(StoredFile):
    """A file of tokens: also how many, and the xxh3-128 of the tokens themselves, not of the Parquet around them."""

    tokens: int
    tokens_xxh3: str


class Split(BaseModel):
    """One split: counts, and how often each token occurs (boundaries not counted)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    documents: int
    tokens: int
    unigram_counts: tuple[int, ...]


class Manifest(BaseModel):
    """What manifest.json holds; nothing in it depends on absolute paths, on time or on how the work was divided.

    Attributes:
        schema_version: of this layout.
        hash: covers the tokens, the documents' names, sources and splits, and the tokenizer.
        tokenizer: its name; its vocabulary is in `tokenizer_file`.
        vocab_size: tokens in the vocabulary.
        row_tokens: tokens in a row of a token file.
        num_sources: entries of `data.sources` that the documents are of.
        held_out: whether held-out splits are whole documents or, where there are too few of them, each document's end.
        binary: files left out because the tokenizer does not take them.
        bad: documents left out because they could not be decoded.
        train, validation, test: the splits.
        documents_file, tokenizer_file, token_files: the files, token files in order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    schema_version: int
    hash: str
    tokenizer: TokenizerName
    vocab_size: int
    row_tokens: int
    num_sources: int
    held_out: HeldOut
    binary: int
    bad: int
    train: Split
    validation: Split
    test: Split
    documents_file: StoredFile
    tokenizer_file: StoredFile
    token_files: tuple[TokenFile, ...]

    def split(self, name: SplitName) -> Split:
        """The split called `name`."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]

    @property
    def files(self) -> tuple[StoredFile, ...]:
        """All files beside the manifest."""
        return (self.documents_file, self.tokenizer_file, *self.token_files)


def read_manifest(store: Store, folder: str) -> Manifest:
    """The manifest of the corpus in `store`, which the user calls `folder`.

    Raises:
        ConfigError: none there, one of another version, or something else.
    """
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
