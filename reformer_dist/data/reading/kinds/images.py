"""Pictures: a PNG or JPEG file is one document; also what other files hold of images."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from reformer_dist.data.reading.columns import Wanted
from reformer_dist.data.reading.reader import Reader
from reformer_dist.data.reading.records import Record
from reformer_dist.data.reading.slices import FileSlice, open_slice
from reformer_dist.data.tokenizers.tokenizer import BadDocument
from reformer_dist.storage.stores import one_line

DEEP = ("I", "F")
"""Pillow's modes of levels that are no bytes; it would cut what is above 255."""


def read_image(piece: FileSlice, wanted: Wanted) -> Iterator[Record]:
    """A picture file as one document. Raises BadDocument for what is none."""
    with open_slice(piece) as stream:
        yield Record(piece.file.name, (image_of(stream.read(), wanted.columns[0].takes.mode),))


def image_of(value: Any, mode: str) -> NDArray[Any]:
    """Levels of an image: of a file's bytes, alone or as {bytes, path}, of an array or of nested lists.

    Raises:
        BadDocument: it is none, or damaged or unreasonably large.
    """
    if isinstance(value, dict) and isinstance(value.get("bytes"), bytes):
        value = value["bytes"]
    if isinstance(value, bytes):
        return _decoded(value, mode)
    if isinstance(value, list):
        try:
            return np.array(value)
        except ValueError:
            raise BadDocument("its lists are not all of one length") from None
    if isinstance(value, np.ndarray):
        return value
    raise BadDocument(f"its field holds {'nothing' if value is None else type(value).__name__}, not an image")


def _decoded(content: bytes, mode: str) -> NDArray[np.uint8]:
    """Levels of a picture file, turned as its EXIF says: [height, width, 3] for RGB, [height, width] for L.

    Of several frames it is the first; levels of 16 bits become the nearest of 8, palettes and CMYK the colours they mean,
    and what is transparent has the colour that lies behind it.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            turned = ImageOps.exif_transpose(image)
            if turned.mode in DEEP or turned.mode.startswith("I;16"):
                turned = Image.fromarray(_of_8_bits(np.asarray(turned)))
            return np.asarray(turned.convert(mode))
    except BadDocument:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadDocument(f"no image that can be read: {one_line(error)}") from None


def _of_8_bits(levels: NDArray[Any]) -> NDArray[np.uint8]:
    """Grey levels of 16 bits as levels of 8, the nearest: 65,535 is 255. Raises BadDocument for other numbers."""
    if levels.dtype.kind == "f" or levels.min() < 0 or levels.max() > 65535:
        raise BadDocument(
            f"its levels are {levels.dtype} from {levels.min()} to {levels.max()}; 8 or 16 bits a level work"
        )
    return ((levels.astype(np.int64) + 128) // 257).astype(np.uint8)


READER = Reader(suffixes=(".png", ".jpg", ".jpeg"), contents=("image",), read=read_image, columns=())
