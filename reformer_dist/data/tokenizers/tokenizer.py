"""What a tokenizer is: a document in, token ids out, and back. Each also writes itself down, for corpora and checkpoints.

What a document is, a tokenizer declares: text or an image's levels. Every tokenizer has one token that no document contains
and that marks where a document starts and ends, its boundary.
"""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from reformer_dist.config.sections.data import TokenizerName


class Content(NamedTuple):
    """What a tokenizer takes, which a record reader gives it.

    Attributes:
        kind: "text" (str or bytes) or "image" (whole numbers from 0 to 255); another kind is a line in `reading/contents`.
        mode: of an image, how a picture file is decoded, in Pillow's words: RGB, or L for grey levels.
    """

    kind: str
    mode: str = ""


TEXT_CONTENT = Content("text")
Encoded = tuple[NDArray[Any], NDArray[np.int64]]
"""Documents end to end: their token ids [n], and how many each document has."""


class BadDocument(ValueError):
    """A document that is not what its tokenizer or its format takes; the text says why, without the document's name."""


class Tokenizer(Protocol):
    """What every tokenizer has.

    Attributes:
        name: as in `data.tokenizer`.
        takes: what its documents are.
        unit: what a token is, for readers of figures.
        vocab_size: number of different tokens, the boundary included.
        boundary: id of the token that marks a document's start and end.
        dtype: smallest unsigned integers that hold an id.
    """

    @property
    def name(self) -> TokenizerName:
        """As in `data.tokenizer`."""

    @property
    def takes(self) -> Content:
        """What its documents are."""

    @property
    def unit(self) -> str:
        """What a token is, for readers of figures."""

    @property
    def vocab_size(self) -> int:
        """Number of different tokens, the boundary included."""

    @property
    def boundary(self) -> int:
        """Id of the token that marks a document's start and end."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Smallest unsigned integers that hold an id."""

    @property
    def vocabulary(self) -> list[str]:
        """Every token as text, by id."""

    def encode(self, document: Any) -> NDArray[Any]:
        """Token ids [n] of a document, in `dtype`. Raises BadDocument for what has no token."""

    def encode_all(self, documents: Sequence[Any]) -> Encoded:
        """What `encode` makes of several documents. Raises BadDocument if one of them has no tokens, not saying which."""

    def decode(self, ids: ArrayLike) -> str:
        """Text of token ids [n]; boundaries and what is no token are left out, as `without_boundaries` does."""

    def num_bytes(self, ids: NDArray[Any]) -> int:
        """Bytes that tokens [n] of documents stand for; a boundary counts as one, as does what is no token."""

    def to_json(self) -> str:
        """What `read_tokenizer` makes the same tokenizer of."""


def join_encoded(documents: Sequence[NDArray[Any]]) -> Encoded:
    """Several documents, each as `encode` gives it, at least one."""
    return np.concatenate(documents), np.array(list(map(len, documents)), np.int64)


def without_boundaries(tokenizer: Tokenizer, ids: ArrayLike) -> NDArray[Any]:
    """Token ids [n] without boundaries and without numbers past the vocabulary, which a model with a larger one may draw."""
    tokens = np.asarray(ids).ravel()
    return tokens[(tokens != tokenizer.boundary) & (tokens < tokenizer.vocab_size)]


def definition_of(tokenizer: Tokenizer) -> str:
    """Name, boundary and vocabulary as JSON, for a tokenizer that its name and release make."""
    fields = {"name": tokenizer.name, "boundary": tokenizer.boundary, "vocabulary": tokenizer.vocabulary}
    return json.dumps(fields, indent=1) + "\n"


def to_bytes(document: str | bytes) -> bytes:
    """A text as UTF-8. Raises BadDocument for half of a surrogate pair."""
    if isinstance(document, bytes):
        return document
    try:
        return document.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise BadDocument(f"no UTF-8: {error.reason}") from None


def join_bytes(documents: Sequence[str | bytes]) -> Encoded:
    """The bytes of several documents end to end, and how many each has."""
    try:
        joined = pa.array(documents, pa.large_binary())
    except UnicodeEncodeError:
        joined = pa.array(list(map(to_bytes, documents)), pa.large_binary())
    _, ends, data = joined.buffers()
    offsets = np.frombuffer(ends, np.int64)
    content = np.frombuffer(data, np.uint8) if offsets[-1] else np.empty(0, np.uint8)
    return content[: offsets[-1]], np.diff(offsets)
