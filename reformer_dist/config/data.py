"""The data section: what to train on, and how it is cut into sequences."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from reformer_dist.config.section import Section

TokenizerName = Literal["bytes", "amino_acids", "rgb", "grey", "bpe"]
FormatName = Literal["text", "jsonl", "csv", "tsv", "fasta", "array", "parquet", "image"]


class DataConfig(Section):
    """What to train on, and how it is cut into sequences."""

    sources: tuple[str, ...] = Field(("stdlib",), min_length=1)
    """Files, folders, globs or URLs, separated by commas. `stdlib` is the Python standard library's own source code."""
    format: Literal["auto"] | FormatName = "auto"
    """What the files are. By default their names say it: .jsonl, .csv, .tsv, .fasta, .npz or .npy (array), .parquet, .png or .jpg (image), all else text; .gz or .zst after it is decompressed."""
    field: tuple[str, ...] | None = None
    """Field, column or array that holds the document, one for all sources or one for each; a number counts the columns of a CSV or TSV file without a header from 0. By default text, or an .npz file's only array."""
    split_by: str | None = None
    """Field, column or array whose equal values keep documents in the same split (the photo a tile is of, say). By default each document is split by its own name."""
    tokenizer: TokenizerName = "bytes"
    """How a document becomes tokens: bytes (vocabulary 256), amino_acids (29), rgb subpixels or grey levels of images (257), or bpe (trained on the corpus, or data.tokenizer_file)."""
    tokenizer_file: str | None = None
    """With bpe: a tokenizer.json to use, of a corpus, a checkpoint or the tokenizers library, instead of training one."""
    bpe_vocab_size: PositiveInt = Field(8192, ge=257)
    """With bpe: tokens of the vocabulary that is trained; 256 single bytes and the document boundary are among them."""
    skip_bad_documents: bool = False
    """Leave out and count documents that cannot be decoded or hold what the vocabulary lacks, instead of stopping at the first."""
    sequence_length: PositiveInt = 4096
    """Tokens in one training sequence, over all its shards."""
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

    def field_of(self, source: int) -> str | None:
        """The field that holds the document in files of the source with that index."""
        if self.field is None:
            return None
        return self.field[source] if len(self.field) > 1 else self.field[0]

    def problems(self) -> Iterator[str]:
        """What does not fit together among the fields."""
        if self.validation_fraction + self.test_fraction >= 1:
            yield f"data.test_fraction = {self.test_fraction} and data.validation_fraction = {self.validation_fraction} leave nothing to train on; 0.05 works for both"
        if self.tokenizer_file is not None and self.tokenizer != "bpe":
            yield f"data.tokenizer_file = {self.tokenizer_file} goes with data.tokenizer = bpe, not {self.tokenizer}"
        if self.order == "documents" and self.weights is not None:
            yield "data.order = documents does not go with data.weights; leave out one of them"
        if self.field is not None and len(self.field) not in (1, len(self.sources)):
            yield f"data.field = {','.join(self.field)} has {len(self.field)} entries for {len(self.sources)} data.sources; one for all works, or one for each"
        if self.weights is not None and self.prepared is None and len(self.weights) != len(self.sources):
            works = ",".join(["1"] * len(self.sources))
            yield f"data.weights = {','.join(map(str, self.weights))} has {len(self.weights)} entries for {len(self.sources)} data.sources; {works} works"
