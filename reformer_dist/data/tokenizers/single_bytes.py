"""Bytes as tokens."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reformer_dist.config.sections.data import TokenizerName
from reformer_dist.data.tokenizers.tokenizer import (
    TEXT_CONTENT,
    BadDocument,
    Encoded,
    definition_of,
    join_bytes,
    to_bytes,
    without_boundaries,
)


class BytesTokenizer:
    """One token a byte. NUL, which text does not contain, marks where a document starts and ends."""

    name: TokenizerName = "bytes"
    takes = TEXT_CONTENT
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
        return _without_nul(np.frombuffer(to_bytes(document), np.uint8))

    def encode_all(self, documents: Sequence[str | bytes]) -> Encoded:
        """What `encode` makes of several documents."""
        content, lengths = join_bytes(documents)
        return _without_nul(content), lengths

    def decode(self, ids: ArrayLike) -> str:
        """Text of token ids [n] (any integer type); boundaries are left out, broken UTF-8 becomes U+FFFD."""
        data: bytes = without_boundaries(self, ids).astype(np.uint8).tobytes()
        return data.decode("utf-8", "replace")

    def num_bytes(self, ids: NDArray[Any]) -> int:
        """One each."""
        return len(ids)

    def to_json(self) -> str:
        """Name, boundary and vocabulary."""
        return definition_of(self)


def _without_nul(content: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The same bytes. Raises BadDocument for NUL, which would end a document in its middle."""
    if not content.all():
        raise BadDocument(f"byte {int(content.argmin()):,} of it is NUL, which marks where a document ends")
    return content
