"""Pictures as they come: deep levels, palettes, CMYK, alpha, several frames, turned by EXIF."""

import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from reformer_dist.data.reading.kinds.images import image_of
from reformer_dist.data.tokenizers.tokenizer import BadDocument

RAMP = np.arange(256).reshape(16, 16)


def saved(picture: Image.Image, kind: str = "png", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["png", "tiff"])
@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_levels_of_16_bits_become_the_nearest_of_8(kind: str, dtype: type) -> None:
    if (kind, dtype) == ("png", np.int32):
        pytest.skip("PNG has none")
    deep = saved(Image.fromarray((RAMP * 257).astype(dtype)), kind)
    np.testing.assert_array_equal(image_of(deep, "L"), RAMP)
    np.testing.assert_array_equal(image_of(deep, "RGB"), np.repeat(RAMP[..., None], 3, -1))


@pytest.mark.parametrize("levels", [RAMP.astype(np.float32), RAMP.astype(np.int32) * 1000, RAMP.astype(np.int32) - 1])
def test_other_levels_are_refused(levels: NDArray[Any]) -> None:
    with pytest.raises(BadDocument, match=r"^its levels are \w+ from .* 8 or 16 bits a level work$"):
        image_of(saved(Image.fromarray(levels), "tiff"), "L")


def test_colours_are_what_they_mean() -> None:
    flat = Image.fromarray(np.full((8, 8, 3), (10, 200, 30), np.uint8))
    for picture in (flat.quantize(), flat.convert("RGBA"), flat):
        np.testing.assert_array_equal(image_of(saved(picture), "RGB"), np.asarray(flat))
    assert np.abs(image_of(saved(flat.convert("CMYK"), "jpeg"), "RGB").astype(int) - (10, 200, 30)).max() <= 4
    other = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    moving = saved(flat, save_all=True, append_images=[other])
    np.testing.assert_array_equal(image_of(moving, "RGB"), np.asarray(flat))


def test_a_photo_is_turned_as_its_exif_says() -> None:
    picture = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side
    np.testing.assert_array_equal(image_of(saved(picture, exif=exif), "L"), np.rot90(np.asarray(picture), -1))
