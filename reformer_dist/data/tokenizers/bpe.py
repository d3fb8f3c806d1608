"""Byte-pair encoding through the `tokenizers` library: trained on a sample of a corpus, or read from a tokenizer.json."""

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tokenizers import Tokenizer as LibraryTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers

from reformer_dist.config.sections.data import TokenizerName
from reformer_dist.data.tokenizers.tokenizer import TEXT_CONTENT, BadDocument, Encoded, join_encoded, without_boundaries

BOUNDARY = "<|document|>"
BOUNDARIES = (BOUNDARY, "<|endoftext|>", "</s>", "[SEP]", "<eos>")
"""Tokens that mark a document's end in tokenizers of other makers, the first that is there; else one is added."""


class BPETokenizer:
    """A tokenizer of the `tokenizers` library, whatever it is made of; text must be UTF-8."""

    name: TokenizerName = "bpe"
    takes = TEXT_CONTENT
    unit = "token"

    def __init__(self, definition: str) -> None:
        """Make it of the text of a tokenizer.json; ValueError if it is none."""
        if not {"model", "added_tokens"} <= json.loads(definition).keys():
            raise ValueError("no file of the tokenizers library")
        self._tokenizer = LibraryTokenizer.from_str(definition)
        self._tokenizer.encode_special_tokens = True  # in a text they are text
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        ids = [self._tokenizer.token_to_id(token) for token in BOUNDARIES]
        if not any(token is not None for token in ids):
            self._tokenizer.add_special_tokens([BOUNDARY])
            ids = [self._tokenizer.token_to_id(BOUNDARY)]
        self.boundary = int(next(token for token in ids if token is not None))
        self.vocab_size = int(self._tokenizer.get_vocab_size())
        self.dtype: np.dtype[Any] = np.dtype(np.uint16 if self.vocab_size <= 1 << 16 else np.uint32)
        unknown = getattr(self._tokenizer.model, "unk_token", None)
        self._unknown = self._tokenizer.token_to_id(unknown) if unknown else None

    @property
    def vocabulary(self) -> list[str]:
        """Every token as the library writes it."""
        return [self._tokenizer.id_to_token(token) or "" for token in range(self.vocab_size)]

    def encode(self, document: str | bytes) -> NDArray[Any]:
        """Token ids [n] of a text."""
        try:
            text = document.decode("utf-8") if isinstance(document, bytes) else document
            text.encode("utf-8")
        except UnicodeError as error:
            raise BadDocument(f"no UTF-8: {error}") from None
        ids = np.array(self._tokenizer.encode(text, add_special_tokens=False).ids, self.dtype)
        if self._unknown is not None and (ids == self._unknown).any():
            raise BadDocument("it holds what the vocabulary lacks")
        if (ids == self.boundary).any():
            raise BadDocument(f"it holds {self._tokenizer.id_to_token(self.boundary)}, which marks a document's end")
        return ids

    def encode_all(self, documents: Sequence[str | bytes]) -> Encoded:
        """What `encode` makes of several texts."""
        return join_encoded([self.encode(document) for document in documents])

    def decode(self, ids: ArrayLike) -> str:
        """Text of token ids [n]; boundaries are left out."""
        text: str = self._tokenizer.decode(without_boundaries(self, ids).tolist())
        return text

    def num_bytes(self, ids: NDArray[Any]) -> int:
        """Of the text that they decode to, and one for each boundary."""
        if self._byte_lengths is None:
            tokens = without_boundaries(self, ids)
            return len(self.decode(tokens).encode()) + len(ids) - len(tokens)
        return int(self._byte_lengths[np.minimum(ids, self.vocab_size)].sum())

    @cached_property
    def _byte_lengths(self) -> NDArray[np.int64] | None:
        """Bytes of each token and of what is none, int64 [vocab_size + 1]; None where they depend on their neighbours."""
        if not isinstance(self._tokenizer.decoder, decoders.ByteLevel):
            return None
        lengths = np.array([*map(len, self.vocabulary), 1])  # the library writes each byte as a letter
        lengths[self.boundary] = 1
        return lengths

    def to_json(self) -> str:
        """The tokenizer.json, as the library writes it."""
        definition: str = self._tokenizer.to_str(pretty=True)
        return definition + "\n"


def train_bpe(texts: Iterable[str], vocab_size: int) -> BPETokenizer:
    """Learn a byte-level BPE: any text can be encoded, and decodes to itself; fewer tokens if the texts hold no more.

    Every digit is a token of its own, as in LLaMA (Touvron et al. 2023), so that a number has the same tokens wherever it
    stands and can be copied.
    """
    tokenizer = LibraryTokenizer(models.BPE())
    digits, words = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOUNDARY],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return BPETokenizer(tokenizer.to_str())
