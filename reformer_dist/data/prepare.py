"""Preparing a corpus with Ray Data: documents in, a folder of Parquet files and a manifest out.

The documents are divided into parts by their listing alone. Each part is a row of a Ray Data dataset and becomes a
file, so the files are the same byte for byte however many tasks run at a time and wherever, and a task has one document
in memory at a time. On a local disk the corpus is written aside and renamed when it is whole; on an object store the
manifest is written last. Either way a folder with a manifest is complete.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import pyarrow.fs as pafs
import xxhash

from reformer_dist.config import ConfigError, DataConfig
from reformer_dist.data.corpus import MANIFEST, SCHEMA_VERSION, SPLITS, Corpus, HeldOut, SplitName
from reformer_dist.data.parts import Part
from reformer_dist.data.sources import Document, list_documents
from reformer_dist.data.stores import open_store
from reformer_dist.data.tokenizers import make_tokenizer
from reformer_dist.data.writing import complete_folder, write_corpus

MIN_PART_BYTES, MAX_PART_BYTES, PARTS = 4 << 20, 128 << 20, 64
UNKNOWN_SIZE = 1 << 20
"""Bytes that a document is taken to have, for dividing the work, when its store does not say."""


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
        tokenizer: name of its tokenizer.
        parts: the files to write; empty when the folder was given.
        held_out: whether validation is whole documents or the end of each.
        num_bytes: size of all documents, as far as known.
    """

    folder: str
    tokenizer: str
    parts: tuple[Part, ...] = ()
    held_out: HeldOut = "documents"
    num_bytes: int = 0

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
                    num_documents = len({document.url for part in self.parts for document in part.documents})
                    report(f"preparing {num_documents:,} documents, {self.num_bytes / 1e6:.1f} MB")
                    write_corpus(self.parts, self.tokenizer, self.held_out, store, report)
        corpus = Corpus.open(self.folder)
        if corpus.tokenizer.name != self.tokenizer:
            made_with = corpus.tokenizer.name
            raise ConfigError(f"data.tokenizer = {self.tokenizer}: {self.folder} was prepared with {made_with!r}")
        return corpus


def plan_preparation(data: DataConfig, storage: str) -> Preparation:
    """Find the documents and divide them into parts; quick, and all a user's mistakes in `data.sources` show here.

    Raises:
        ConfigError: sources that do not exist or hold nothing, or a storage that is no folder or URL.
    """
    if data.prepared is not None:
        return Preparation(data.prepared, data.tokenizer)
    make_tokenizer(data.tokenizer)
    try:
        store = open_store(storage)
    except ValueError as error:
        raise ConfigError(f"train.storage = {storage}: {error}") from None
    if store.filesystem.get_file_info(store.path).type == pafs.FileType.File:
        raise ConfigError(f"train.storage = {storage}: is a file; a folder works, it need not exist")
    documents = list_documents(data.sources)
    splits, held_out = _split(documents, data.validation_fraction)
    kept_end = data.validation_fraction if held_out == "ends" else None
    parts = tuple(part for split in SPLITS for part in _parts(split, splits[split], kept_end))
    made_from = [SCHEMA_VERSION, data.tokenizer, data.validation_fraction, [asdict(d) for d in documents]]
    num_bytes = sum(document.size or 0 for document in documents)
    fingerprint = xxhash.xxh3_64_hexdigest(json.dumps(made_from).encode())
    folder = store.url(store.child(f"corpora/{fingerprint}"))
    return Preparation(folder, data.tokenizer, parts, held_out, num_bytes)


def _split(documents: Sequence[Document], fraction: float) -> tuple[dict[SplitName, list[Document]], HeldOut]:
    """Documents of each split by a hash of their name; where there are too few for that, all in both, to be cut."""
    splits: dict[SplitName, list[Document]] = {"train": [], "validation": []}
    for document in documents:
        share = xxhash.xxh3_64_intdigest(document.name.encode()) / 2**64
        splits["validation" if share < fraction else "train"].append(document)
    expects_one_in_each = len(documents) * min(fraction, 1 - fraction) >= 1
    if expects_one_in_each and all(splits.values()):
        return splits, "documents"
    return {"train": list(documents), "validation": list(documents)}, "ends"


def _parts(split: SplitName, documents: Sequence[Document], kept_end: float | None) -> Iterator[Part]:
    """Runs of consecutive documents of about the same size, a function of the listing alone."""
    sizes = [UNKNOWN_SIZE if document.size is None else document.size for document in documents]
    part_bytes = min(max(sum(sizes) // PARTS, MIN_PART_BYTES), MAX_PART_BYTES)
    run: list[Document] = []
    run_bytes = index = 0
    for document, size in zip(documents, sizes, strict=True):
        if run and run_bytes + size > part_bytes:
            yield Part(split, index, tuple(run), kept_end)
            run, run_bytes, index = [], 0, index + 1
        run.append(document)
        run_bytes += size
    yield Part(split, index, tuple(run), kept_end)
