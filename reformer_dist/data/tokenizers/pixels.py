"""Levels of pixels as tokens."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reformer_dist.config.sections.data import TokenizerName
from reformer_dist.data.tokenizers.tokenizer import (
    BadDocument,
    Content,
    Encoded,
    definition_of,
    join_encoded,
    without_boundaries,
)


class PixelTokenizer:
    """One token a level of an image, row after row; for RGB red, green and blue of a pixel follow each other."""

    vocab_size = 257
    boundary = 256
    dtype: np.dtype[Any] = np.dtype(np.uint16)

    def __init__(self, name: Literal["rgb", "grey"]) -> None:
        self.name: TokenizerName = name
        self.unit = "subpixel" if name == "rgb" else "pixel"
        self.num_channels = 3 if name == "rgb" else 1
        self.takes = Content("image", "RGB" if name == "rgb" else "L")

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
        return "".join(f"{token} " for token in without_boundaries(self, ids).tolist())

    def image(self, ids: ArrayLike, height: int, width: int) -> NDArray[np.uint8]:
        """Levels uint8 [height, width, 3] or [height, width] of the first image's tokens; what is missing is black."""
        levels = np.zeros(height * width * self.num_channels, np.uint8)
        given = without_boundaries(self, ids)[: levels.size]
        levels[: given.size] = given
        return levels.reshape((height, width, 3) if self.num_channels == 3 else (height, width))

    def num_bytes(self, ids: NDArray[Any]) -> int:
        """One each: a level."""
        return len(ids)

    def to_json(self) -> str:
        """Name, boundary and vocabulary."""
        return definition_of(self)


def _numbers(text: str) -> list[int]:
    try:
        return [int(word) for word in text.split()]
    except ValueError:
        raise BadDocument("a text for pixels must be levels with spaces between, such as '0 128 255'") from None


def _extremes(levels: NDArray[Any]) -> str:
    return f"from {levels.min()} to {levels.max()}" if levels.size else ""
