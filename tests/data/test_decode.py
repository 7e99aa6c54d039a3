"""Pixels of every mode and orientation, and files that cannot be read."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.factory import fails, grey, noise, truncate, write
from vtadl_jax.data.decode import image_size, is_grey, load_image, load_mask


def pixels(path: Path, channels: int) -> np.ndarray:
    loaded = load_image(path, channels)
    return np.repeat(loaded[..., None], 3, 2) if channels == 3 and loaded.ndim == 2 else loaded


# Modes


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        ("1", ".png"),
        ("L", ".png"),
        ("L", ".bmp"),
        ("L", ".jpg"),
        ("P", ".png"),
        ("LA", ".png"),
        ("RGB", ".png"),
        ("RGB", ".jpg"),
        ("RGB", ".bmp"),
        ("RGB", ".tiff"),
        ("RGBA", ".png"),
        ("CMYK", ".jpg"),
        ("CMYK", ".tif"),
        ("YCbCr", ".jpg"),
        ("I;16", ".png"),
        ("I;16", ".tif"),
        ("I", ".tif"),
        ("F", ".tif"),
    ],
)
def test_every_mode_shows_the_same_picture(tmp_path, mode, suffix, channels):
    """A white square on black, whatever the file says it is."""
    picture = grey(0, (24, 16))
    picture[8:16, :8] = 255
    if mode == "F":
        image = Image.fromarray(picture.astype(np.float32) / 255)
    elif mode.startswith("I"):
        image = Image.fromarray(picture.astype(np.uint16 if mode == "I;16" else np.int32) * 257)
    else:
        image = Image.fromarray(picture).convert("RGB").convert(mode)
    path = write(tmp_path / f"a{suffix}", image)
    with Image.open(path) as opened:
        assert opened.mode in (mode, "RGB" if mode == "YCbCr" else mode)
    shown = pixels(path, channels).reshape(24, 16, channels)
    np.testing.assert_allclose(shown, np.repeat(picture[..., None], channels, 2), atol=2)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    values = np.array([[0, 255, 256, 257], [32768, 65278, 65534, 65535]], np.uint16)
    expected = [[0, 1, 1, 1], [128, 254, 255, 255]]
    np.testing.assert_array_equal(pixels(write(tmp_path / "a.png", values), 1), expected)
    wide = Image.fromarray(values.astype(np.int32))
    np.testing.assert_array_equal(pixels(write(tmp_path / "a.tif", wide), 1), expected)
    floats = Image.fromarray(values.astype(np.float32))
    np.testing.assert_array_equal(pixels(write(tmp_path / "b.tif", floats), 1), expected)


def test_sixteen_bits_of_each_colour(tmp_path):
    values = np.array([[[0, 257, 514], [32768, 65278, 65535]]], ">u2")
    raw = b"\0" + values.tobytes()

    def chunk(kind, data):
        check = zlib.crc32(kind + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + kind + data + check

    header = (2).to_bytes(4, "big") + (1).to_bytes(4, "big") + bytes([16, 2, 0, 0, 0])
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    np.testing.assert_array_equal(pixels(path, 3), [[[0, 1, 2], [128, 254, 255]]])


def test_big_endian_sixteen_bits(tmp_path):
    values = np.array([[0, 257], [32768, 65535]], ">u2")
    path = tmp_path / "a.tif"
    Image.frombytes("I;16B", (2, 2), values.tobytes()).save(path)
    np.testing.assert_array_equal(pixels(path, 1), [[0, 1], [128, 255]])


def test_a_dark_sixteen_bit_image_stays_dark(tmp_path):
    assert pixels(write(tmp_path / "a.png", np.full((4, 4), 300, np.uint16)), 1).max() == 1


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (np.int32, -1),
        (np.int32, 65536),
        (np.float32, -0.1),
        (np.float32, 100),
        (np.float32, np.nan),
    ],
)
def test_numbers_of_unknown_range(tmp_path, dtype, value):
    values = np.zeros((4, 4), dtype)
    values[0, 0] = value
    path = write(tmp_path / "a.tif", values)
    with fails(path, "values from", "8 or 16 bits"):
        load_image(path, 1)


def test_transparency_is_laid_over_black(tmp_path):
    colour = np.full((4, 4, 4), 200, np.uint8)
    colour[:2, :, 3] = 0
    colour[2:, :, 3] = 128
    shown = pixels(write(tmp_path / "a.png", colour), 3)
    assert (shown[:2] == 0).all()
    np.testing.assert_allclose(shown[2:], 100, atol=1)
    one_is_clear = Image.fromarray(grey(1)).convert("P")
    one_is_clear.putpalette([0, 0, 0, 250, 250, 250])
    path = write(tmp_path / "p.png", one_is_clear, transparency=1)
    assert (pixels(path, 1) == 0).all()


def test_palette_is_looked_up(tmp_path):
    image = Image.fromarray(grey(1)).convert("P")
    image.putpalette([0, 0, 0, 10, 20, 30])
    assert (pixels(write(tmp_path / "a.png", image), 3) == [10, 20, 30]).all()


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (64, 33)])
def test_plain_png_is_decoded_to_the_pixels_that_pil_reads(tmp_path, mode, size):
    values = noise((*size, 3) if mode == "RGB" else size)
    path = write(tmp_path / "a.png", values)
    np.testing.assert_array_equal(load_image(path, 3), values)
    np.testing.assert_array_equal(load_image(path, 1), np.asarray(Image.open(path).convert("L")))


def test_arrays_need_no_file():
    values = noise((5, 4, 3))
    assert load_image(values, 3) is values
    assert load_image(values[..., :1], 3).shape == (5, 4)
    np.testing.assert_array_equal(load_mask(np.array([[0, 255]], np.uint8)), [[False, True]])


def test_grey_is_one_channel_or_three_that_are_the_same(tmp_path):
    colored = noise((5, 6, 3))
    assert is_grey(noise((5, 6)))
    assert is_grey(np.repeat(colored[..., :1], 3, -1))
    assert not is_grey(colored)
    for mode in ("L", "RGB"):
        Image.fromarray(colored).convert(mode).save(tmp_path / f"{mode}.png")
        assert is_grey(tmp_path / f"{mode}.png") == (mode == "L")


def test_channels():
    with fails("channels 2", "1 (grey)", "3 (RGB)"):
        load_image(Path("a.png"), 2)


# EXIF orientation


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation, suffix):
    """The upright picture has its bright quarter at the top left and is wider than high."""
    upright = grey(0, (32, 48))
    upright[:16, :24] = 255
    rotated = upright.T if orientation >= 5 else upright
    undo = {1: 0, 2: 1, 3: 2, 4: 3, 5: 0, 6: 3, 7: 2, 8: 1}[orientation]  # flips that were made
    stored = [rotated, rotated[:, ::-1], rotated[::-1, ::-1], rotated[::-1]][undo]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = write(tmp_path / f"a{suffix}", np.ascontiguousarray(stored), exif=exif)
    np.testing.assert_allclose(pixels(path, 1), upright, atol=2)
    assert image_size(path) == (32, 48)


# Files that cannot be read


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif"])
def test_truncated_file(tmp_path, suffix):
    path = truncate(write(tmp_path / f"a{suffix}", noise((64, 64))), 0.6)
    with fails("cannot read image", path):
        load_image(path, 1)


def test_empty_missing_and_foreign_files(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("hello")
    for load in (lambda path: load_image(path, 3), load_mask, image_size):
        with fails(tmp_path / "empty.png", "the file is empty"):
            load(tmp_path / "empty.png")
        with fails(tmp_path / "text.png", "not an image of a known kind"):
            load(tmp_path / "text.png")
        with fails(tmp_path / "none.png", "no such file"):
            load(tmp_path / "none.png")


def png_header(path: Path, width: int, height: int) -> Path:
    """A PNG that claims a size and has hardly any pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + crc

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0")))
    return path


@pytest.mark.filterwarnings("error")
def test_large_images_are_no_attack(tmp_path):
    assert image_size(png_header(tmp_path / "a.png", 20_000, 20_000)) == (20_000, 20_000)


@pytest.mark.parametrize("side", [20_001, 40_000])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_too_large(tmp_path, side):
    path = png_header(tmp_path / "a.png", side, side)
    for load in (image_size, lambda path: load_image(path, 1)):
        with fails(path, "larger than 400000000 pixels", "tiles"):
            load(path)
