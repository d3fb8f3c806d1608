"""Residues of proteins as tokens."""

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

RESIDUES = "ABCDEFGHIKLMNPQRSTVWYZUOXJ*-"
"""FASTA's codes for amino acids: the twenty, ambiguous and rare ones, a stop and a gap."""


class AminoAcidTokenizer:
    """One token a residue of a protein; letters of either case, white space between them is left out."""

    name: TokenizerName = "amino_acids"
    takes = TEXT_CONTENT
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
        data, lengths = join_bytes([to_bytes(document).translate(None, b" \t\r\n") for document in documents])
        ids: NDArray[Any] = self._ids[data]
        if unknown := data[ids == self.boundary][:1].tobytes():
            raise BadDocument(f"{unknown.decode('latin-1')!r} is no code of an amino acid ({RESIDUES})")
        return ids, lengths

    def decode(self, ids: ArrayLike) -> str:
        """Letters of token ids [n]."""
        vocabulary = self.vocabulary
        return "".join(vocabulary[token] for token in without_boundaries(self, ids).tolist())

    def num_bytes(self, ids: NDArray[Any]) -> int:
        """One each: a letter."""
        return len(ids)

    def to_json(self) -> str:
        """Name, boundary and vocabulary."""
        return definition_of(self)
