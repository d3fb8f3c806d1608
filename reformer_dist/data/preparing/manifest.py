"""What a corpus says of itself: the manifest, written, read and checked.

On disk it has one of two layouts: of schema version 3 for a corpus with one field called text, of version 4 for any other.
"""

import json
from collections.abc import Iterable
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from reformer_dist.config.sections.data import TEXT, TokenizerName, field_named
from reformer_dist.errors import ConfigError
from reformer_dist.storage.hashed_files import StoredFile
from reformer_dist.storage.stores import Store, one_line

TEXT_SCHEMA, FIELDS_SCHEMA = 3, 4
"""Versions of the layouts: of text alone, and of any fields."""
MANIFEST, DOCUMENTS, TOKENIZER = "manifest.json", "documents.parquet", "tokenizer.json"
SplitName = Literal["train", "validation", "test"]
HeldOut = Literal["documents", "ends"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)
ScopeName = Literal["train", "validation", "test", "all"]
"""Of documents that are read: those of a split, or all of them, whole."""


class TokenFile(StoredFile):
    """A file of tokens: also how many, and the xxh3-128 of the tokens themselves, not of the Parquet around them."""

    tokens: int
    tokens_xxh3: str


class Split(BaseModel):
    """One field of one split: counts, and how often each token occurs (boundaries not counted)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    documents: int
    tokens: int
    unigram_counts: tuple[int, ...]


class FieldEntry(BaseModel):
    """One field of a corpus.

    Attributes:
        tokenizer: its tokenizer's name; the vocabulary is in `tokenizer_file`.
        vocab_size: tokens in the vocabulary.
        aligned_with: the field that has as many tokens in every document, since the two share positions.
        train, validation, test: the splits.
        tokenizer_file, token_files: the files, token files in order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    tokenizer: TokenizerName
    vocab_size: int
    aligned_with: str | None = None
    train: Split
    validation: Split
    test: Split
    tokenizer_file: StoredFile
    token_files: tuple[TokenFile, ...]


class _Common(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    schema_version: int
    hash: str
    row_tokens: int
    num_sources: int
    held_out: HeldOut
    binary: int
    bad: int
    problems: tuple[str, ...] = ()
    documents_file: StoredFile


class Manifest(_Common):
    """What manifest.json holds; nothing in it depends on absolute paths, on time or on how the work was divided.

    Attributes:
        schema_version: of the layout.
        hash: covers the tokens, the documents' names, sources and splits, and the tokenizers.
        row_tokens: tokens in a row of a token file.
        num_sources: entries of `data.sources` that the documents are of.
        held_out: whether held-out splits are whole documents or, where there are too few of them, each document's end.
        binary: files left out because the tokenizers do not take them.
        bad: documents left out because they could not be decoded.
        problems: the first of those, each named (file and row) with what is wrong; left out where there are none.
        documents_file: the table of documents.
        fields: the fields by name.
    """

    fields: dict[str, FieldEntry]

    def split(self, name: SplitName, field: str = TEXT) -> Split:
        """A field of the split called `name`."""
        entry = self.fields[field_named(field, self.fields)]
        return {"train": entry.train, "validation": entry.validation, "test": entry.test}[name]

    @property
    def files(self) -> tuple[StoredFile, ...]:
        """All files beside the manifest."""
        of_fields = (file for entry in self.fields.values() for file in (entry.tokenizer_file, *entry.token_files))
        return (self.documents_file, *of_fields)

    def to_json(self) -> str:
        """The text of manifest.json, in the layout of `schema_version`."""
        layout: BaseModel = self
        if self.schema_version == TEXT_SCHEMA:
            layout = _TextLayout.model_validate(
                self.model_dump(exclude={"fields"}) | self.fields[TEXT].model_dump(exclude={"aligned_with"})
            )
        return layout.model_dump_json(indent=1, exclude=None if self.problems else {"problems"}) + "\n"


class _TextLayout(BaseModel):
    """Schema version 3, of text alone: its field's entry and the rest side by side, in this order."""

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
    problems: tuple[str, ...] = ()
    train: Split
    validation: Split
    test: Split
    documents_file: StoredFile
    tokenizer_file: StoredFile
    token_files: tuple[TokenFile, ...]


def schema_of(fields: Iterable[str]) -> int:
    """Version of the layout of a corpus with these fields."""
    return TEXT_SCHEMA if list(fields) == [TEXT] else FIELDS_SCHEMA


def file_name(fields: Iterable[str], field: str, name: str) -> str:
    """What a field's file is called: `name` in a corpus of text alone, else with the field's name before it."""
    return name if schema_of(fields) == TEXT_SCHEMA else f"{field}.{name}"


def length_column(fields: Iterable[str], field: str, split: SplitName) -> str:
    """The column of the table of documents with a field's tokens in a split."""
    return split if schema_of(fields) == TEXT_SCHEMA else f"{field}.{split}"


def read_manifest(store: Store, folder: str) -> Manifest:
    """The manifest of the corpus in `store`, which the user calls `folder`.

    Raises:
        ConfigError: none there, one of another version, or something else.
    """
    try:
        with store.filesystem.open_input_stream(store.child(MANIFEST)) as stream:
            tree = json.loads(stream.read())
        version = tree.get("schema_version")
        if version not in (TEXT_SCHEMA, FIELDS_SCHEMA):
            raise ConfigError(
                f"prepared corpus {folder}: schema version {version} instead of {TEXT_SCHEMA} or {FIELDS_SCHEMA};"
                " prepare it again"
            )
        return _from_text_layout(tree) if version == TEXT_SCHEMA else Manifest.model_validate(tree)
    except FileNotFoundError:
        raise ConfigError(f"prepared corpus {folder}: no {MANIFEST} there; jobs/prepare_data.py makes one") from None
    except (json.JSONDecodeError, AttributeError, ValidationError) as error:
        raise ConfigError(f"prepared corpus {folder}: {MANIFEST} is not one: {one_line(error)}") from None


def _from_text_layout(tree: Any) -> Manifest:
    flat = _TextLayout.model_validate(tree).model_dump()
    entry = {name: flat[name] for name in FieldEntry.model_fields if name in flat}
    common = {name: flat[name] for name in _Common.model_fields}
    return Manifest.model_validate(common | {"fields": {TEXT: entry}})
