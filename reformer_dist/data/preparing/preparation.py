"""Preparing a corpus with Ray Data: documents in, a folder of Parquet files and a manifest out.

The files are divided into parts by their listing alone. Each part is a row of a Ray Data dataset and becomes a file, so
the files are the same byte for byte however many tasks run at a time and wherever, and a task has one document, or one
piece of a large one, in memory at a time. On a local disk the corpus is written aside and renamed when it is whole; on
an object store the manifest is written last. Either way a folder with a manifest is complete.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow.fs as pafs
import xxhash

from reformer_dist.config import DataConfig
from reformer_dist.config.data import FormatName
from reformer_dist.data.preparing.corpus import Corpus
from reformer_dist.data.preparing.manifest import MANIFEST, SCHEMA_VERSION
from reformer_dist.data.preparing.parts import Part
from reformer_dist.data.preparing.vocabulary import chosen_tokenizer, trained_tokenizer
from reformer_dist.data.preparing.writing import complete_folder, write_corpus
from reformer_dist.data.reading.formats import KINDS, SLICE_BYTES, FileSlice, format_of, slices_of
from reformer_dist.data.reading.sources import SourceFile, list_files
from reformer_dist.data.tokenizers.tokenizer import Kind, Tokenizer
from reformer_dist.errors import ConfigError
from reformer_dist.storage.stores import open_store

MIN_PART_BYTES, MAX_PART_BYTES, PARTS = 4 << 20, 128 << 20, 64
FILE_BYTES = 4096
"""Bytes that a smaller file counts as: opening it takes as long."""
UNKNOWN_SIZE = 1 << 20
"""Bytes that a file is taken to have, for dividing the work, when its store does not say."""


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
        tokenizer: what will make the tokens; None for a BPE that is still to be trained, or a folder that was given.
        parts: the files to write; empty when the folder was given.
        num_files: files to read, `num_bytes` together as far as known.
        num_bytes: see above.
        num_binary: files that are left out since the tokenizer does not take them.
    """

    folder: str
    data: DataConfig
    tokenizer: Tokenizer | None = None
    parts: tuple[Part, ...] = ()
    num_files: int = 0
    num_bytes: int = 0
    num_binary: int = 0

    @property
    def is_done(self) -> bool:
        """Whether `run` has nothing to make, and so needs no Ray."""
        if not self.parts:
            return True
        store = open_store(self.folder)
        return bool(store.filesystem.get_file_info(store.child(MANIFEST)).type == pafs.FileType.File)

    def run(self, report: Callable[[str], None] = print) -> Corpus:
        """Make the corpus if it is not there (Ray must be running), verify it and open it."""
        if not self.is_done:
            with complete_folder(open_store(self.folder)) as store:
                if store is not None:
                    report(f"preparing {self.num_files:,} files, {self.num_bytes / 1e6:.1f} MB")
                    tokenizer = self.tokenizer or trained_tokenizer(self.parts, self.data)
                    write_corpus(self.parts, self.data, tokenizer, store, report, self.num_binary)
        corpus = Corpus.open(self.folder)
        self._check(corpus)
        return corpus

    def _check(self, corpus: Corpus) -> None:
        made_with, weights = corpus.tokenizer.name, self.data.weights
        if made_with != self.data.tokenizer:
            raise ConfigError(f"data.tokenizer = {self.data.tokenizer}: {self.folder} was prepared with {made_with!r}")
        num_sources = corpus.manifest.num_sources
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
        tokenizer: what makes the tokens (a checkpoint's, say); by default what `data` says.

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
    tokenizer = tokenizer or chosen_tokenizer(data)
    kind: Kind = "text" if tokenizer is None else tokenizer.kind
    listed = list_files(data.sources)
    slices: list[FileSlice] = []
    files = []
    for file in listed:
        format_name = format_of(file.name, data)
        if _is_taken(file, format_name, data, kind):
            files.append(file)
            slices += slices_of(file, format_name)
    if not files:
        raise ConfigError(
            f"data.sources = {','.join(data.sources)}: no {kind}s there for data.tokenizer = {data.tokenizer}"
        )
    parts = tuple(_parts(slices))
    relevant = data.model_dump(include=set(MADE_FROM))
    made_from = [SCHEMA_VERSION, SLICE_BYTES, relevant, files]
    definition = tokenizer.to_json() if tokenizer else f"bpe trained to {data.bpe_vocab_size}"
    fingerprint = xxhash.xxh3_64_hexdigest(json.dumps([*made_from, definition]).encode())
    return Preparation(
        store.url(store.child(f"corpora/{fingerprint}")),
        data,
        tokenizer,
        parts,
        len(files),
        sum(file.size or 0 for file in files),
        len(listed) - len(files),
    )


MADE_FROM = ("format", "field", "split_by", "skip_bad_documents", "validation_fraction", "test_fraction")
"""Fields of the data section that decide what is prepared, beside sources and tokenizer."""


def _is_taken(file: SourceFile, format_name: FormatName, data: DataConfig, kind: Kind) -> bool:
    """Whether the tokenizer takes such a file; one that was named must be taken.

    Raises:
        ConfigError: it was named and is not.
    """
    if data.split_by is not None and format_name in ("text", "fasta", "image"):
        raise ConfigError(f"data.split_by = {data.split_by}: {file.url} has no fields ({format_name}); leave it out")
    if kind in KINDS[format_name]:
        return True
    if not file.found:
        works = "rgb works" if kind == "text" else "bytes works"
        raise ConfigError(
            f"data.tokenizer = {data.tokenizer} takes no {format_name} file, which {file.url} is; {works}"
        )
    return False


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
