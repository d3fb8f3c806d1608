"""Preparing a corpus with Ray Data: documents in, a folder of Parquet files and a manifest out.

The files are divided into parts by their listing alone. Each part is a row of a Ray Data dataset and becomes a file, so
the files are the same byte for byte however many tasks run at a time and wherever, and a task has one document, or one
piece of a large one, in memory at a time. On a local disk the corpus is written aside and renamed when it is whole; on
an object store the manifest is written last. Either way a folder with a manifest is complete.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow.fs as pafs
import xxhash

from reformer_dist.config import DataConfig
from reformer_dist.config.sections.data import TEXT, FormatName
from reformer_dist.data.preparing.corpus import Corpus
from reformer_dist.data.preparing.manifest import MANIFEST, TEXT_SCHEMA, schema_of
from reformer_dist.data.preparing.parts import Part
from reformer_dist.data.preparing.vocabulary import TRAINED, chosen_tokenizers, trained_tokenizers
from reformer_dist.data.preparing.writing import complete_folder, write_corpus
from reformer_dist.data.reading.choice import READERS, SLICE_BYTES, gathered, recognise_all, slices_of
from reformer_dist.data.reading.columns import Column, wanted_of
from reformer_dist.data.reading.finding.chaff import Left
from reformer_dist.data.reading.finding.sources import SourceFile, list_sources
from reformer_dist.data.reading.reader import Reader
from reformer_dist.data.reading.slices import FileSlice
from reformer_dist.data.tokenizers.choice import TOKENIZERS
from reformer_dist.data.tokenizers.tokenizer import Tokenizer
from reformer_dist.errors import ConfigError
from reformer_dist.storage.stores import open_store

MIN_PART_BYTES, MAX_PART_BYTES, PARTS = 4 << 20, 128 << 20, 64
FILE_BYTES = 4096
"""Bytes that a smaller file counts as: opening it takes as long."""
UNKNOWN_SIZE = 1 << 20
"""Bytes that a file is taken to have, for dividing the work, when its store does not say."""
SHOWN = 3
"""Files of a kind that a summary names."""
MADE_FROM = (
    *("format", "encoding", "errors", "field", "split_by", "on_bad", "most_bad"),
    *("validation_fraction", "test_fraction"),
)
"""Settings of the data section that decide what is prepared, beside sources, fields and tokenizers."""


def prepare(data: DataConfig, storage: str, report: Callable[[str], None] = print) -> Corpus:
    """Open the corpus that `data` describes, making it first if it is not there.

    Args:
        data: what to prepare; with `data.prepared` that folder is opened and nothing is made.
        storage: folder or URL; the corpus goes to `storage`/corpora/FINGERPRINT.
        report: takes lines of progress.

    Raises:
        ConfigError: sources that do not exist or hold nothing, too little text for two splits, or a broken corpus.
        OSError: a document that cannot be read, or a storage that cannot be written; the message names it.
    """
    return plan_preparation(data, storage).run(report)


@dataclass(frozen=True)
class Preparation:
    """What there is to do, found without Ray.

    Attributes:
        folder: where the corpus is or will be.
        data: what to prepare.
        tokenizers: for each field what will make its tokens, None for a BPE that is still to be trained; none at all when
            the folder was given.
        parts: the files to write; empty when the folder was given.
        num_files: files to read, `num_bytes` together as far as known.
        num_bytes: see above.
        num_binary: files that are left out since the tokenizers do not take them.
    """

    folder: str
    data: DataConfig
    tokenizers: Mapping[str, Tokenizer | None] = field(default_factory=dict)
    parts: tuple[Part, ...] = ()
    num_files: int = 0
    num_bytes: int = 0
    num_binary: int = 0
    left: Left = field(default_factory=Left)
    """What the sources hold beside it."""

    @property
    def is_done(self) -> bool:
        """Whether `run` has nothing to make, and so needs no Ray."""
        if not self.parts:
            return True
        store = open_store(self.folder)
        return bool(store.filesystem.get_file_info(store.child(MANIFEST)).type == pafs.FileType.File)

    def summary(self) -> Iterator[str]:
        """Lines on what is to be read, by kind and size, and on what is left."""
        if not self.parts:
            yield f"prepared corpus: {self.folder}"
            return
        whole = [
            each
            for part in self.parts
            for piece in part.slices
            if piece.start == 0
            for each in (piece, *piece.siblings)
        ]
        for kind in dict.fromkeys(_kind_of(piece) for piece in whole):
            of_kind = [piece.file for piece in whole if _kind_of(piece) == kind]
            shown = ", ".join(file.name for file in of_kind[:SHOWN]) + (", ..." if len(of_kind) > SHOWN else "")
            yield f"{kind}: {len(of_kind):,} files, {sum(file.size or 0 for file in of_kind) / 1e6:,.3f} MB ({shown})"
        yield f"altogether {self.num_files:,} files, {self.num_bytes / 1e6:,.3f} MB"
        for line in self.left.lines():
            yield f"left: {line}"
        yield f"corpus: {self.folder}{'' if self.is_done else ' (not made yet)'}"

    def run(self, report: Callable[[str], None] = print) -> Corpus:
        """Make the corpus if it is not there (Ray must be running), verify it and open it."""
        if not self.is_done:
            with complete_folder(open_store(self.folder), report) as store:
                if store is not None:
                    report(f"preparing {self.num_files:,} files, {self.num_bytes / 1e6:.1f} MB")
                    tokenizers = trained_tokenizers(self.parts, self.data, self.tokenizers)
                    write_corpus(self.parts, self.data, tokenizers, store, report, self.num_binary)
        corpus = Corpus.open(self.folder)
        self._check(corpus)
        return corpus

    def _check(self, corpus: Corpus) -> None:
        wanted = self.data.record_fields
        if lacking := [name for name in wanted if name not in corpus.fields]:
            raise ConfigError(
                f"{self.folder} was prepared without a field {lacking[0]}; its fields: {', '.join(corpus.fields)}"
            )
        for name, about in wanted.items():
            made_with = corpus.tokenizer_of(name).name
            if made_with != about.tokenizer:
                setting = f"{self.data.setting_of(name, 'tokenizer')} = {about.tokenizer}"
                raise ConfigError(f"{setting}: {self.folder} was prepared with {made_with!r}")
            owner = self.data.vocabulary_field(name)
            if corpus.tokenizer_of(name).to_json() != corpus.tokenizer_of(owner).to_json():
                raise ConfigError(
                    f"data.fields.{name}.vocabulary_of = {owner}: {self.folder} was prepared with two vocabularies; leave"
                    " out data.prepared"
                )
        num_sources, weights = corpus.manifest.num_sources, self.data.weights
        if weights is not None and len(weights) != num_sources:
            given = ",".join(map(str, weights))
            raise ConfigError(
                f"data.weights = {given} has {len(weights)} entries, {self.folder} was made of {num_sources} sources;"
                f" {','.join(['1'] * num_sources)} works"
            )


def plan_preparation(data: DataConfig, storage: str, tokenizer: Tokenizer | None = None) -> Preparation:
    """Find the files and divide them into parts; quick, and all a user's mistakes in `data.sources` show here.

    Args:
        data: what to prepare.
        storage: folder or URL.
        tokenizer: what makes the tokens of the field called text (a checkpoint's, say) and of those that share its
            vocabulary; by default what `data` says.

    Raises:
        ConfigError: sources that do not exist or hold nothing the tokenizer takes, or a storage that is no folder or URL.
    """
    if data.prepared is not None:
        return Preparation(data.prepared, data)
    try:
        store = open_store(storage)
    except ValueError as error:
        raise ConfigError(f"train.storage = {storage}: {error}") from None
    if store.filesystem.get_file_info(store.path).type == pafs.FileType.File:
        raise ConfigError(f"train.storage = {storage}: is a file; a folder works, it need not exist")
    tokenizers = chosen_tokenizers(data, tokenizer)
    takes = {name: each.takes if each else TRAINED for name, each in tokenizers.items()}
    listing = gathered(list_sources(data.sources), data)
    wanted = [wanted_of(data, source, takes).columns for source in range(len(data.sources))]
    slices: list[FileSlice] = []
    files: list[SourceFile] = []
    num_binary = len(listing.files)
    for whole in recognise_all(listing, data):
        if _is_taken(whole.file, whole.format, data, wanted[whole.file.source]):
            files += [whole.file, *(sibling.file for sibling in whole.siblings)]
            num_binary -= 1
            slices += slices_of(whole)
        else:
            listing.left.add(f"{whole.format} files, which the tokenizer does not take", whole.file.name)
    if not files:
        kinds = " and ".join(dict.fromkeys(f"{content.kind}s" for content in takes.values()))
        raise ConfigError(f"data.sources = {','.join(data.sources)}: no {kinds} there for {_tokenizer_settings(data)}")
    parts = tuple(_parts(slices))
    return Preparation(
        store.url(store.child(f"corpora/{_fingerprint(data, tokenizers, files)}")),
        data,
        tokenizers,
        parts,
        len(files),
        sum(file.size or 0 for file in files),
        num_binary,
        listing.left,
    )


def _kind_of(piece: FileSlice) -> str:
    """What a file is, in words."""
    compressed = f", compressed by {piece.compression}" if piece.compression else ""
    return f"{piece.format}{f' in {piece.encoding}' if piece.is_converted else ''}{compressed}"


def _fingerprint(data: DataConfig, tokenizers: Mapping[str, Tokenizer | None], files: Sequence[SourceFile]) -> str:
    """Of all that decides what is prepared; it names the corpus's folder."""
    schema = schema_of(tokenizers)
    definitions = {
        name: tokenizer.to_json()
        if tokenizer
        else f"bpe of digits trained to {data.record_fields[name].bpe_vocab_size}"
        for name, tokenizer in tokenizers.items()
    }
    shared = {name: data.vocabulary_field(name) for name in tokenizers if data.vocabulary_field(name) != name}
    definitions |= {name: f"that of {owner}" for name, owner in shared.items()}
    relevant = data.model_dump(include=set(MADE_FROM))
    if data.split_lines:  # else corpora keep the names that they had before there was this setting
        relevant["split_lines"] = True
    if beginnings := {name: field.begins_with for name, field in data.fields.items() if field.begins_with is not None}:
        relevant["begins_with"] = beginnings
    made_with: str | list[object]
    if schema == TEXT_SCHEMA:
        relevant["field"], made_with = data.record_fields[TEXT].column, definitions[TEXT]
    else:
        fields = data.record_fields
        made_with = [[name, fields[name].column, fields[name].aligned_with, text] for name, text in definitions.items()]
    made_from = [schema, SLICE_BYTES, relevant, files, made_with]
    return xxhash.xxh3_64_hexdigest(json.dumps(made_from).encode())


def _is_taken(file: SourceFile, format_name: FormatName, data: DataConfig, columns: Sequence[Column]) -> bool:
    """Whether the tokenizers take such a file; one that was named must be taken.

    Raises:
        ConfigError: it was named and is not, or it does not have the columns that are wanted.
    """
    reader = READERS[format_name]
    if data.split_by is not None and reader.columns is not None:
        raise ConfigError(f"data.split_by = {data.split_by}: {file.url} has no fields ({format_name}); leave it out")
    kinds = {column.takes.kind for column in columns}
    holds_them = bool(kinds & set(reader.contents)) and kinds <= {*reader.contents, *reader.beside}
    if holds_them and (len(columns) == 1 or not reader.is_one_document):
        _check_columns(file, format_name, reader, columns)
        return True
    if file.found:
        return False
    if holds_them:
        raise ConfigError(
            f"data.fields has {len(columns)} fields, and {file.url} ({format_name}) can only be one; jsonl works, or"
            " data.format = parallel where files beside it hold the others, line by line"
        )
    works = next(name for name, make in TOKENIZERS.items() if make().takes.kind in reader.contents)
    raise ConfigError(f"{_tokenizer_settings(data)} takes no {format_name} file, which {file.url} is; {works} works")


def _check_columns(file: SourceFile, format_name: FormatName, reader: Reader, columns: Sequence[Column]) -> None:
    """Whether files of a kind whose columns are known have those that are wanted."""
    for column in columns:
        if reader.columns and column.name not in (None, *reader.columns):
            raise ConfigError(
                f"{column.setting} = {column.name}: {file.url} ({format_name}) has other columns;"
                f" {' or '.join(reader.columns)} works"
            )


def _tokenizer_settings(data: DataConfig) -> str:
    """The tokenizers as the user set them."""
    fields = data.record_fields.items()
    return ", ".join(f"{data.setting_of(name, 'tokenizer')} = {about.tokenizer}" for name, about in fields)


def _parts(slices: Sequence[FileSlice]) -> Iterator[Part]:
    """Runs of consecutive slices of about the same size, a function of the listing alone."""
    sizes = [max((piece.stop or piece.file.size or UNKNOWN_SIZE) - piece.start, FILE_BYTES) for piece in slices]
    part_bytes = min(max(sum(sizes) // PARTS, MIN_PART_BYTES), MAX_PART_BYTES)
    run: list[FileSlice] = []
    run_bytes = index = 0
    for piece, size in zip(slices, sizes, strict=True):
        if run and run_bytes + size > part_bytes:
            yield Part(index, tuple(run))
            run, run_bytes, index = [], 0, index + 1
        run.append(piece)
        run_bytes += size
    yield Part(index, tuple(run))
