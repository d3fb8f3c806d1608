"""Tokenizers: a document's text or bytes in, token ids out, and back."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


class BytesTokenizer:
    """One token a byte. NUL, which text does not contain, marks where a document starts and ends."""

    name = "bytes"
    vocab_size = 256
    boundary = 0
    dtype = np.dtype(np.uint8)

    def encode(self, document: str | bytes) -> NDArray[np.uint8]:
        """Token ids [n] uint8 of a document; str is taken as UTF-8."""
        data = document.encode("utf-8", "surrogateescape") if isinstance(document, str) else document
        return np.frombuffer(data, np.uint8)

    def decode(self, ids: ArrayLike) -> str:
        """Text of token ids [n] (any integer type, 0-255); boundaries are left out, broken UTF-8 becomes U+FFFD."""
        tokens = np.asarray(ids)
        data: bytes = tokens[tokens != self.boundary].astype(np.uint8).tobytes()
        return data.decode("utf-8", "replace")


Tokenizer = BytesTokenizer


def make_tokenizer(name: str) -> Tokenizer:
    """The tokenizer called `name` in the configuration and in manifests.

    Raises:
        ValueError: an unknown name.
    """
    if name != BytesTokenizer.name:
        raise ValueError(f"data.tokenizer = {name!r} is unknown; 'bytes' works")
    return BytesTokenizer()
