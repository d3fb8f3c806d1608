"""The data section: what to train on, and how it is cut into sequences."""

from typing import Literal

from pydantic import Field, PositiveInt

from reformer_dist.config.section import Section


class DataConfig(Section):
    """What to train on, and how it is cut into sequences."""

    sources: tuple[str, ...] = Field(("stdlib",), min_length=1)
    """Files, folders, globs or URLs of text, separated by commas. `stdlib` is the Python standard library's own source code."""
    tokenizer: Literal["bytes"] = "bytes"
    """How a document becomes tokens. `bytes`: one token a byte, vocabulary 256, NUL marks a document's start and end."""
    sequence_length: PositiveInt = 4096
    """Tokens in one training sequence, over all its shards."""
    validation_fraction: float = Field(0.05, gt=0.0, lt=1.0)
    """Share of the documents held out for validation (whole documents, chosen by a hash of their name)."""
    reset_positions: bool = True
    """Whether positions start at zero in every document of a sequence, or run through it."""
    attend_across_documents: bool = False
    """Whether a token may attend to other documents packed into its sequence."""
    prepared: str | None = None
    """Folder or URL of a prepared corpus. By default one is made (once) under train.storage, named by what it was made from."""
