"""Image and mask files with random damage."""

import io

import numpy as np
import pytest
from hypothesis import given
from PIL import Image

from tests.fuzz.damage import answers, bounded_memory, damaged, quick
from vtadl_jax.data.decode import load_image, load_mask

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (9, 14), np.uint8)
COLOUR = RNG.integers(0, 256, (9, 14, 3), np.uint8)


def encoded(pixels: np.ndarray, kind: str, mode: str = "", **options) -> bytes:
    image = Image.fromarray(pixels)
    stream = io.BytesIO()
    (image.convert(mode) if mode else image).save(stream, kind, **options)
    return stream.getvalue()


SOUND = {
    "png": (
        encoded(GREY, "PNG"),
        encoded(COLOUR, "PNG"),
        encoded(COLOUR, "PNG", "P"),
        encoded(COLOUR, "PNG", "RGBA"),
        encoded(GREY, "PNG", "1"),
        encoded(GREY.astype(np.uint16) * 257, "PNG"),
    ),
    "jpg": (
        encoded(GREY, "JPEG"),
        encoded(COLOUR, "JPEG", quality=50),
        encoded(COLOUR, "JPEG", "CMYK"),
        encoded(COLOUR, "JPEG", progressive=True),
    ),
    "bmp": (encoded(GREY, "BMP"), encoded(COLOUR, "BMP")),
    "tif": (
        encoded(GREY, "TIFF"),
        encoded(COLOUR, "TIFF", compression="tiff_lzw"),
        encoded(GREY.astype(np.uint16) * 257, "TIFF"),
        encoded(COLOUR, "TIFF", compression="tiff_adobe_deflate"),
    ),
    "webp": (encoded(COLOUR, "WEBP", lossless=True), encoded(COLOUR, "WEBP")),
    "gif": (encoded(GREY, "GIF"),),
}


@pytest.mark.fuzz
@pytest.mark.parametrize("kind", SOUND)
def test_a_damaged_image_is_read_or_named(kind, tmp_path):
    path = tmp_path / f"part.{kind}"

    @quick(150)
    @given(damaged(SOUND[kind]))
    def check(content):
        path.write_bytes(content)
        for channels in (1, 3):
            with answers("part."):
                image = load_image(path, channels)
                assert image.dtype == np.uint8
                assert image.shape[2:] in ((), (1,), (3,))

    with bounded_memory():
        check()


@pytest.mark.fuzz
@pytest.mark.parametrize("kind", ["png", "tif", "bmp"])
def test_a_damaged_mask_is_read_or_named(kind, tmp_path):
    path = tmp_path / f"part_mask.{kind}"

    @quick(100)
    @given(damaged(SOUND[kind]))
    def check(content):
        path.write_bytes(content)
        with answers("part_mask."):
            assert load_mask(path).ndim == 2

    with bounded_memory():
        check()
