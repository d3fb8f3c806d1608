"""The data section: what to train on, which fields its records have, and how it is cut into sequences."""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from reformer_dist.config.sections.section import Section

TokenizerName = Literal["bytes", "amino_acids", "rgb", "grey", "bpe"]
FormatName = Literal["text", "jsonl", "csv", "tsv", "fasta", "array", "parquet", "arrow", "image", "parallel"]
TEXT_TOKENIZERS = ("bytes", "bpe", "amino_acids")
"""Those that take text."""
TEXT = "text"
"""Name of the field that `data.field` and `data.tokenizer` describe, and of what a model writes where there are several."""
TARGET = "target"
"""Another name of it, for records that have no field text."""
SOURCE = "source"
"""Name of the field that is read where the one called text is written from it (a translation, say)."""
VOCABULARY_SETTINGS = ("tokenizer", "tokenizer_file", "bpe_vocab_size")
"""Settings of a field that say what its tokens are."""
OLD_NAME = "skip_bad_documents"
_FIELD_NAME = re.compile(r"[a-z][a-z0-9_]*")


def field_named(field: str, fields: Collection[str]) -> str:
    """The name that a field has among some: the text is called target where there is no text."""
    return TARGET if field == TEXT and TEXT not in fields and TARGET in fields else field


def _is_encoding(name: str) -> bool:
    """Whether text can be written in it."""
    try:
        "".encode(name)
    except (LookupError, ValueError):
        return False
    return True


class FieldConfig(Section):
    """One field of a record: where it is in the files, and how it becomes tokens."""

    column: tuple[str, ...] | None = None
    """Column that holds it, one for all sources or one for each. By default the one with the field's name."""
    begins_with: str | None = None
    """Another column whose text comes first, and an end of a line behind it: the question before a document, say."""
    tokenizer: TokenizerName = "bytes"
    """How it becomes tokens, as data.tokenizer."""
    tokenizer_file: str | None = None
    """With bpe: a tokenizer.json to use, as data.tokenizer_file."""
    bpe_vocab_size: PositiveInt = Field(8192, ge=257)
    """With bpe: tokens of the vocabulary that is trained on this field."""
    vocabulary_of: str | None = None
    """Another field whose tokenizer this one has, too (the two sides of a translation, say). A BPE is trained on the texts of both."""
    aligned_with: str | None = None
    """Another field that must have as many tokens in every record, since the two share positions (a text and its labels, say)."""


class DataConfig(Section):
    """What to train on, and how it is cut into sequences."""

    sources: tuple[str, ...] = Field(("stdlib",), min_length=1)
    """Files, folders, globs or URLs, separated by commas. `stdlib` is the Python standard library's own source code."""
    format: Literal["auto"] | FormatName = "auto"
    """What the files are. By default their first bytes say it (Parquet, Arrow, arrays, pictures), then their names: .jsonl, .csv, .tsv, .fasta; all else is text. Whatever is compressed by gzip, zstd, bzip2 or xz is decompressed. parallel, which must be said: files beside each other, one a field, such as train.en and train.de, whose lines belong together."""
    encoding: str = "utf-8"
    """What text is written in: utf-8, latin-1, cp1252, utf-16, shift_jis or any other that Python knows; raw takes bytes as they are. A byte-order mark wins over it."""
    errors: Literal["strict", "replace", "ignore"] = "strict"
    """What becomes of bytes that are none of the encoding: the document is bad, or each becomes U+FFFD, or nothing."""
    field: tuple[str, ...] | None = None
    """Field, column or array that holds the document, one for all sources or one for each; a number counts the columns of a CSV or TSV file without a header from 0. By default text, or an .npz file's only array."""
    split_lines: bool = False
    """With several data.fields: whether line i of every field is a record of its own (a sentence, say, instead of its document). Entries of a list are lines. All lines of a document are in the same split."""
    split_by: str | None = None
    """Field, column or array whose equal values keep documents in the same split (the photo a tile is of, say). By default each document is split by its own name."""
    fields: dict[str, FieldConfig] = Field(default_factory=dict)
    """Fields of a record by name, where there are several, instead of data.field and data.tokenizer: each with column, begins_with, tokenizer, tokenizer_file, bpe_vocab_size, vocabulary_of and aligned_with, such as {"source": {"column": "en", "tokenizer": "bpe"}, "text": {"column": "de", "vocabulary_of": "source"}}."""
    tokenizer: TokenizerName = "bytes"
    """How a document becomes tokens: bytes (vocabulary 256), amino_acids (29), rgb subpixels or grey levels of images (257), or bpe (trained on the corpus, or data.tokenizer_file)."""
    tokenizer_file: str | None = None
    """With bpe: a tokenizer.json to use, of a corpus, a checkpoint or the tokenizers library, instead of training one."""
    bpe_vocab_size: PositiveInt = Field(8192, ge=257)
    """With bpe: tokens of the vocabulary that is trained; 256 single bytes and the document boundary are among them."""
    on_bad: Literal["fail", "skip"] = "fail"
    """What a document does that cannot be read, or holds what the vocabulary lacks: fail stops at the first, skip leaves it out, counts and names it."""
    most_bad: PositiveInt | None = None
    """With skip: bad documents that may be left out; with more, preparing stops. By default any number."""
    sequence_length: PositiveInt = 4096
    """Tokens in one training sequence, over all its shards."""
    source_length: PositiveInt | None = None
    """Tokens in the source of a training sequence, for an encoder-decoder. By default sequence_length."""
    too_long: Literal["fail", "skip"] = "fail"
    """What a document with a source does that is longer than a sequence, or whose source is: fail tells how long it is, skip leaves it out. (Documents without a source are cut.)"""
    validation_fraction: float = Field(0.05, gt=0.0, lt=1.0)
    """Share of the documents held out for validation (whole documents, chosen by a hash of their name)."""
    test_fraction: float = Field(0.0, ge=0.0, lt=1.0)
    """Share of the documents held out besides as a test split, which training never reads."""
    weights: tuple[PositiveFloat, ...] | None = None
    """Shares of the samples that come from each source, such as 3,1. By default sources are one corpus, each sequence once an epoch."""
    order: Literal["shuffled", "documents"] = "shuffled"
    """Order of an epoch: every sequence on its own, or the sequences of a document behind each other in one row of the batch, documents shuffled."""
    reset_positions: bool = True
    """Whether positions start at zero in every document of a sequence, or run through it."""
    attend_across_documents: bool = False
    """Whether a token may attend to other documents packed into its sequence."""
    prepared: str | None = None
    """Folder or URL of a prepared corpus. By default one is made (once) under train.storage, named by what it was made from."""

    def __hash__(self) -> int:
        """Of its values; a dictionary, which `fields` is, has none of its own."""
        return hash(self.model_dump_json())

    @model_validator(mode="before")
    @classmethod
    def _take_old_names(cls, values: Any) -> Any:
        """Let skip_bad_documents, as on_bad was called when older checkpoints were written, mean what it did."""
        if not isinstance(values, dict) or OLD_NAME not in values:
            return values
        kept = {name: value for name, value in values.items() if name != OLD_NAME}
        skips = str(values[OLD_NAME]).lower() in ("true", "1", "yes", "on")
        return {"on_bad": "skip" if skips else "fail", **kept}

    @property
    def record_fields(self) -> Mapping[str, FieldConfig]:
        """The fields of a record by name: `data.fields`, or the one called text that the fields beside it describe.

        A field with vocabulary_of has the tokenizer settings of the field that it names.
        """
        if self.fields:
            return {name: self._with_vocabulary(field) for name, field in self.fields.items()}
        return {
            TEXT: FieldConfig(
                column=self.field,
                tokenizer=self.tokenizer,
                tokenizer_file=self.tokenizer_file,
                bpe_vocab_size=self.bpe_vocab_size,
            )
        }

    @property
    def text(self) -> FieldConfig | None:
        """The field called text, or target where there is no text; None where there is neither."""
        return self.record_fields.get(TEXT, self.record_fields.get(TARGET))

    @property
    def longest_source(self) -> int:
        """Tokens in the source of a training sequence, given or as many as in the sequence."""
        return self.source_length or self.sequence_length

    def _with_vocabulary(self, field: FieldConfig) -> FieldConfig:
        other = self.fields.get(field.vocabulary_of or "")
        return field.model_copy(update={name: getattr(other, name) for name in VOCABULARY_SETTINGS}) if other else field

    def vocabulary_field(self, field: str) -> str:
        """The field that describes the tokenizer of a field: itself, or the one whose vocabulary it shares."""
        return self.record_fields[field].vocabulary_of or field

    def column_of(self, field: str, source: int) -> str | None:
        """The column that holds a field in files of the source with that index; None where their format decides."""
        columns = self.record_fields[field].column
        if columns is None:
            return field if self.fields else None
        return columns[source] if len(columns) > 1 else columns[0]

    @property
    def source_columns(self) -> tuple[str, ...]:
        """Columns of the text of which a source is put together, first to last; none where there is no source."""
        if SOURCE not in self.fields:
            return ()
        beginning, column = self.fields[SOURCE].begins_with, self.column_of(SOURCE, 0)
        return tuple(name for name in (beginning, column) if name is not None)

    def setting_of(self, field: str, setting: str) -> str:
        """The name under which the user finds a setting of a field: "data.fields.source.column", or "data.field"."""
        if self.fields:
            named = self.vocabulary_field(field) if setting in VOCABULARY_SETTINGS else field
            return f"data.fields.{named}.{setting}"
        return "data.field" if setting == "column" else f"data.{setting}"

    def problems(self) -> Iterator[str]:
        """What does not fit together among the fields."""
        if self.validation_fraction + self.test_fraction >= 1:
            yield f"data.test_fraction = {self.test_fraction} and data.validation_fraction = {self.validation_fraction} leave nothing to train on; 0.05 works for both"
        if self.fields and (self.field is not None or self.tokenizer != "bytes" or self.tokenizer_file is not None):
            yield "data.fields does not go with data.field, data.tokenizer and data.tokenizer_file, which describe one field called text; give each field its own"
        if any(not source.strip() for source in self.sources):
            given = ",".join(self.sources)
            yield f"data.sources = {given!r} has an empty entry, as a variable that is not set leaves one; . means this folder"
        if self.most_bad is not None and self.on_bad == "fail":
            yield f"data.most_bad = {self.most_bad} goes with data.on_bad = skip; fail stops at the first"
        if self.encoding != "raw" and not _is_encoding(self.encoding):
            yield f"data.encoding = {self.encoding} is no encoding that Python knows; utf-8, latin-1, cp1252, utf-16 or raw works"
        for name, field in self.record_fields.items():
            yield from self._problems_of(name, field)
        if self.split_lines and len(self.fields) < 2:
            yield "data.split_lines = true goes with several data.fields, whose lines belong together; false works"
        if self.split_lines and self.format == "parallel":
            yield "data.split_lines = true does not go with data.format = parallel, where each line is a record; false works"
        for name, field in self.fields.items():
            yield from self._vocabulary_problems(name, field)
        if self.order == "documents" and self.weights is not None:
            yield "data.order = documents does not go with data.weights; leave out one of them"
        if self.weights is not None and self.prepared is None and len(self.weights) != len(self.sources):
            works = ",".join(["1"] * len(self.sources))
            yield f"data.weights = {','.join(map(str, self.weights))} has {len(self.weights)} entries for {len(self.sources)} data.sources; {works} works"

    def _problems_of(self, name: str, field: FieldConfig) -> Iterator[str]:
        """What is wrong with one field of a record."""
        if not _FIELD_NAME.fullmatch(name):
            yield f"data.fields has {name!r}; a name of small letters, digits and _ works, such as source"
        if field.tokenizer_file is not None and field.tokenizer != "bpe" and field.vocabulary_of is None:
            given, goes = self.setting_of(name, "tokenizer_file"), self.setting_of(name, "tokenizer")
            yield f"{given} = {field.tokenizer_file} goes with {goes} = bpe, not {field.tokenizer}"
        if field.column is not None and len(field.column) not in (1, len(self.sources)):
            yield f"{self.setting_of(name, 'column')} = {','.join(field.column)} has {len(field.column)} entries for {len(self.sources)} data.sources; one for all works, or one for each"
        if field.begins_with is not None and field.tokenizer not in TEXT_TOKENIZERS:
            yield f"data.fields.{name}.begins_with = {field.begins_with} goes with texts, not with {self.setting_of(name, 'tokenizer')} = {field.tokenizer}; {' or '.join(TEXT_TOKENIZERS)} works"
        if field.begins_with is not None and field.aligned_with is not None:
            yield f"data.fields.{name}.begins_with = {field.begins_with} does not go with aligned_with = {field.aligned_with}; leave one of them out"
        leaders = [each for each, other in self.fields.items() if other.aligned_with is None]
        if field.aligned_with is not None and field.aligned_with not in leaders:
            works = f"{leaders[0]} works" if leaders else "one field must stand by itself"
            yield f"data.fields.{name}.aligned_with = {field.aligned_with} must name a field that is not itself aligned with one; {works}"

    def _vocabulary_problems(self, name: str, field: FieldConfig) -> Iterator[str]:
        """What is wrong with sharing another field's vocabulary."""
        if field.vocabulary_of is None:
            return
        given = f"data.fields.{name}.vocabulary_of = {field.vocabulary_of}"
        owners = [each for each, other in self.fields.items() if other.vocabulary_of is None]
        if field.vocabulary_of not in owners:
            works = f"{owners[0]} works" if owners else "one field must have a tokenizer of its own"
            yield f"{given} must name a field with a tokenizer of its own; {works}"
        for setting in VOCABULARY_SETTINGS:
            value = getattr(field, setting)
            if value != FieldConfig.model_fields[setting].default:
                yield f"data.fields.{name}.{setting} = {value} does not go with {given}; leave one of them out"
