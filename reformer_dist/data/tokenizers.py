"""Tokenizers: a document in, token ids out, and back. Each also writes itself down, for corpora and checkpoints.

A document is text (str or bytes) or an image (uint8 levels). Every tokenizer has one token that no document contains
and that marks where a document starts and ends, its boundary.
"""

import json
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from reformer_dist.config.data import TokenizerName

Kind = Literal["text", "image"]
"""What a tokenizer takes."""
Encoded = tuple[NDArray[Any], NDArray[np.int64]]
"""Documents end to end: their token ids [n], and how many each document has."""
RESIDUES = "ABCDEFGHIKLMNPQRSTVWYZUOXJ*-"
"""FASTA's codes for amino acids: the twenty, ambiguous and rare ones, a stop and a gap."""


class BadDocument(ValueError):
    """A document that is not what its tokenizer or its format takes; the text says why, without the document's name."""


class Tokenizer(Protocol):
    """What every tokenizer has.

    Attributes:
        name: as in `data.tokenizer`.
        kind: what its documents are.
        unit: what a token is, for readers of figures.
        vocab_size: number of different tokens, the boundary included.
        boundary: id of the token that marks a document's start and end.
        dtype: smallest unsigned integers that hold an id.
    """

    @property
    def name(self) -> TokenizerName:
        """As in `data.tokenizer`."""

    @property
    def kind(self) -> Kind:
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
        """Text of token ids [n]; boundaries are left out."""

    def to_json(self) -> str:
        """What `read_tokenizer` makes the same tokenizer of."""


class BytesTokenizer:
    """One token a byte. NUL, which text does not contain, marks where a document starts and ends."""

    name: TokenizerName = "bytes"
    kind: Kind = "text"
    unit = "byte"
    vocab_size = 256
    boundary = 0
    dtype: np.dtype[Any] = np.dtype(np.uint8)

    @property
    def vocabulary(self) -> list[str]:
        """Every byte as Latin-1 has it."""
        return [chr(byte) for byte in range(self.vocab_size)]

    def encode(self, document: str | bytes) -> NDArray[Any]:
        """Token ids [n] uint8 of a document; str is taken as UTF-8."""
        return np.frombuffer(_to_bytes(document), np.uint8)

    def encode_all(self, documents: Sequence[str | bytes]) -> Encoded:
        """What `encode` makes of several documents."""
        return _joined(documents)

    def decode(self, ids: ArrayLike) -> str:
        """Text of token ids [n] (any integer type, 0-255); boundaries are left out, broken UTF-8 becomes U+FFFD."""
        tokens = np.asarray(ids)
        data: bytes = tokens[tokens != self.boundary].astype(np.uint8).tobytes()
        return data.decode("utf-8", "replace")

    def to_json(self) -> str:
        """Name, boundary and vocabulary."""
        return _to_json(self)


class AminoAcidTokenizer:
    """One token a residue of a protein; letters of either case, white space between them is left out."""

    name: TokenizerName = "amino_acids"
    kind: Kind = "text"
    unit = "residue"
    vocab_size = len(RESIDUES) + 1
    boundary = 0
    dtype: np.dtype[Any] = np.dtype(np.uint8)

    def __init__(self) -> None:
        self._ids = np.zeros(256, np.uint8)
        for number, residue in enumerate(RESIDUES, start=1):
            self._ids[[ord(residue), ord(residue.lower())]] = number

    @property
    def vocabulary(self) -> list[str]:
        """The boundary, then the residues."""
        return ["|", *RESIDUES]

    def encode(self, document: str | bytes) -> NDArray[Any]:
        """Token ids [n] uint8 of a protein's sequence."""
        return self.encode_all([document])[0]

    def encode_all(self, documents: Sequence[str | bytes]) -> Encoded:
        """What `encode` makes of several proteins."""
        data, lengths = _joined([_to_bytes(document).translate(None, b" \t\r\n") for document in documents])
        ids: NDArray[Any] = self._ids[data]
        if unknown := data[ids == self.boundary][:1].tobytes():
            raise BadDocument(f"{unknown.decode('latin-1')!r} is no code of an amino acid ({RESIDUES})")
        return ids, lengths

    def decode(self, ids: ArrayLike) -> str:
        """Letters of token ids [n]."""
        vocabulary = self.vocabulary
        return "".join(vocabulary[token] for token in np.asarray(ids).ravel().tolist() if token != self.boundary)

    def to_json(self) -> str:
        """Name, boundary and vocabulary."""
        return _to_json(self)


class PixelTokenizer:
    """One token a level of an image, row after row; for RGB red, green and blue of a pixel follow each other."""

    kind: Kind = "image"
    vocab_size = 257
    boundary = 256
    dtype: np.dtype[Any] = np.dtype(np.uint16)

    def __init__(self, name: Literal["rgb", "grey"]) -> None:
        self.name: TokenizerName = name
        self.unit = "subpixel" if name == "rgb" else "pixel"
        self.num_channels = 3 if name == "rgb" else 1

    @property
    def vocabulary(self) -> list[str]:
        """The levels as numbers, then the boundary."""
        return [*map(str, range(256)), "|"]

    def encode(self, document: ArrayLike | str) -> NDArray[Any]:
        """Token ids [n] uint16 of levels 0-255: an array [height, width, 3] or [height, width], or numbers in a string."""
        levels = np.asarray(_numbers(document) if isinstance(document, str) else document)
        if not isinstance(document, str):
            self._check_shape(levels.shape)
        if levels.dtype.kind not in "ui" or (levels.size and not 0 <= levels.min() <= levels.max() <= 255):
            raise BadDocument(f"{levels.dtype} levels {_extremes(levels)}; whole numbers from 0 to 255 work")
        return levels.astype(self.dtype).ravel()

    def encode_all(self, documents: Sequence[ArrayLike | str]) -> Encoded:
        """What `encode` makes of several images."""
        return join_encoded([self.encode(document) for document in documents])

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        if shape[2:] not in (((3,),) if self.name == "rgb" else ((), (1,))) or len(shape) < 2:
            other = "grey" if len(shape) == 2 or shape[2:] == (1,) else "rgb"
            hint = f"; data.tokenizer = {other} works" if len(shape) in (2, 3) and other != self.name else ""
            raise BadDocument(f"an array of shape {shape} is no {self.name} image{hint}")

    def decode(self, ids: ArrayLike) -> str:
        """Levels of token ids [n] as numbers with spaces after them, which `encode` takes."""
        return "".join(f"{token} " for token in np.asarray(ids).ravel().tolist() if token != self.boundary)

    def image(self, ids: ArrayLike, height: int, width: int) -> NDArray[np.uint8]:
        """Levels uint8 [height, width, 3] or [height, width] of the first image's tokens; what is missing is black."""
        tokens = np.asarray(ids)
        levels = np.zeros(height * width * self.num_channels, np.uint8)
        given = tokens[tokens != self.boundary][: levels.size]
        levels[: given.size] = given
        return levels.reshape((height, width, 3) if self.num_channels == 3 else (height, width))

    def to_json(self) -> str:
        """Name, boundary and vocabulary."""
        return _to_json(self)


def join_encoded(documents: Sequence[NDArray[Any]]) -> Encoded:
    """Several documents, each as `encode` gives it, at least one."""
    return np.concatenate(documents), np.array(list(map(len, documents)), np.int64)


def make_tokenizer(name: TokenizerName) -> Tokenizer:
    """The tokenizer called `name` in the configuration; all but bpe, which is trained or read.

    Raises:
        ValueError: an unknown name.
    """
    match name:
        case "bytes":
            return BytesTokenizer()
        case "amino_acids":
            return AminoAcidTokenizer()
        case "rgb" | "grey":
            return PixelTokenizer(name)
    raise ValueError(f"data.tokenizer = {name!r} is not known by its name alone; 'bytes' works")


def read_tokenizer(text: str) -> Tokenizer:
    """The tokenizer whose `to_json` gave `text`; what has no name of ours is a file of the tokenizers library.

    Raises:
        ValueError: the text is neither.
    """
    tree = json.loads(text)
    if not isinstance(tree, dict):
        raise ValueError("no tokenizer: a JSON object works")
    if "name" in tree:
        tokenizer = make_tokenizer(tree["name"])
        if tokenizer.vocabulary != tree["vocabulary"] or tokenizer.boundary != tree["boundary"]:
            raise ValueError(f"the vocabulary of {tokenizer.name} is another one in this release")
        return tokenizer
    from reformer_dist.data.bpe import BPETokenizer

    return BPETokenizer(text)


def _to_json(tokenizer: Tokenizer) -> str:
    fields = {"name": tokenizer.name, "boundary": tokenizer.boundary, "vocabulary": tokenizer.vocabulary}
    return json.dumps(fields, indent=1) + "\n"


def _to_bytes(document: str | bytes) -> bytes:
    if isinstance(document, bytes):
        return document
    try:
        return document.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise BadDocument(f"no UTF-8: {error.reason}") from None


def _joined(documents: Sequence[str | bytes]) -> Encoded:
    """The bytes of several documents end to end, and how many each has."""
    try:
        joined = pa.array(documents, pa.large_binary())
    except UnicodeEncodeError:
        joined = pa.array(list(map(_to_bytes, documents)), pa.large_binary())
    _, ends, data = joined.buffers()
    offsets = np.frombuffer(ends, np.int64)
    content = np.frombuffer(data, np.uint8) if offsets[-1] else np.empty(0, np.uint8)
    return content[: offsets[-1]], np.diff(offsets)


def _numbers(text: str) -> list[int]:
    try:
        return [int(word) for word in text.split()]
    except ValueError:
        raise BadDocument("a text for pixels must be levels with spaces between, such as '0 128 255'") from None


def _extremes(levels: NDArray[Any]) -> str:
    return f"from {levels.min()} to {levels.max()}" if levels.size else ""
