"""Converts what PIL opened, of any mode and orientation, to upright pixels of 8 bits."""

import imagecodecs
import numpy as np
from PIL import Image

from vtadl_jax.data import png
from vtadl_jax.data.memory import as_array
from vtadl_jax.data.values import to_eight_bits

_ORIENTATION = 0x0112  # tag of EXIF and TIFF
_BITS_PER_SAMPLE, _EXTRA_SAMPLES, _PREMULTIPLIED = 258, 338, (1,)  # TIFF tags, and a value
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def orientation_of(image: Image.Image, stored: bool = False) -> int:
    """Returns the EXIF orientation, 1 to 8, to apply; reads no pixels.

    stored: of pixels that another decoder read, which PIL has not turned.
    """
    if image.format == "TIFF":  # PIL turns it as it reads it
        return image.tag_v2.get(_ORIENTATION, 1) if stored else 1  # type: ignore[attr-defined]
    if image.format == "PNG" and "exif" not in image.info:
        # For EXIF behind the pixels, getexif would decode all of them.
        content = png.find_exif(image.fp) if _is_unread(image) else None  # type: ignore[attr-defined]
        if content is None:
            return 1
        exif = Image.Exif()
        exif.load(content)
        return exif.get(_ORIENTATION, 1)
    return image.getexif().get(_ORIENTATION, 1)


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """Returns the image turned and mirrored by an EXIF orientation."""
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def upright(image: Image.Image) -> Image.Image:
    """Returns the image upright, with its pixels read."""
    orientation = orientation_of(image)
    image.load()
    return turned(image, orientation)


def over_black(image: Image.Image) -> Image.Image:
    """Composes transparency over black; returns other images as they are."""
    if not image.has_transparency_data:
        return image
    if image.mode == "La":
        image = image.convert("LA")
    black = Image.new("RGBA", image.size, (0, 0, 0, 255))
    return Image.alpha_composite(black, image.convert("RGBA"))


def to_pixels(image: Image.Image, bits: int, where: str) -> np.ndarray:
    """Converts an upright image of any mode to uint8 [h, w] or [h, w, 3].

    bits: as `values.to_eight_bits` takes them, for modes of more than 8.
    """
    if image.mode.startswith(("I", "F")):  # PIL's own convert would clip them at 255
        values = as_array(image)
        pixels = to_eight_bits(values, bits, where)
        clear = image.info.get("transparency")
        return np.where(values == clear, np.uint8(0), pixels) if isinstance(clear, int) else pixels

    def convert(part: Image.Image) -> Image.Image:
        part = over_black(part)
        return part.convert("L" if part.mode in ("1", "L") else "RGB")

    return as_array(image, convert)


def plain_png(image: Image.Image) -> np.ndarray | None:
    """Returns the pixels of an opened PNG of 8 bits, grey or RGB, that needs no conversion.

    None for any other image, and for one that only PIL reads.
    """
    if image.format != "PNG" or image.mode not in ("L", "RGB") or image.has_transparency_data:
        return None
    header = png.read_header(image.fp)  # type: ignore[attr-defined]
    if header.depth != 8 or header.interlaced or orientation_of(image) != 1:
        return None
    try:
        pixels = png.decode(_content(image), header)
    except (imagecodecs.PngError, ValueError):
        return None  # PIL has clearer errors, and reads files with harmless faults
    return pixels if pixels.dtype == np.uint8 and pixels.shape[:2] == image.size[::-1] else None


def wide_values(image: Image.Image) -> np.ndarray | None:
    """Returns the values of an opened PNG, or TIFF of colors, that stores 16 bits per channel.

    uint16 [h, w] or [h, w, C], not turned; None for any other image. Raises as the decoders do.
    """
    if image.format == "PNG":
        header = png.read_header(image.fp)  # type: ignore[attr-defined]
        return png.decode(_content(image), header) if header.depth == 16 else None
    if image.format != "TIFF" or image.mode not in ("RGB", "RGBA"):
        return None
    depths = image.tag_v2.get(_BITS_PER_SAMPLE, ())  # type: ignore[attr-defined]
    if not isinstance(depths, tuple) or set(depths) != {16}:
        return None
    values = imagecodecs.tiff_decode(_content(image))
    if values.shape[:2] != image.size[::-1] and values.shape[1:] == image.size[::-1]:
        values = np.moveaxis(values, 0, -1)  # stored channel by channel
    return values if values.dtype == np.uint16 and values.ndim == 3 else None


def join_alpha(values: np.ndarray, image: Image.Image, bits: int, where: str) -> Image.Image:
    """Returns `wide_values` as an 8-bit image: L, RGB, LA or RGBA.

    bits: of the colors; alpha has all 16.
    """
    colours = 1 if values.ndim == 2 or values.shape[2] < 3 else 3
    if values.ndim == 2 or values.shape[2] == colours:
        return Image.fromarray(to_eight_bits(values, bits, where))
    pixels = to_eight_bits(np.ascontiguousarray(values[..., :colours]), bits, where)
    tags = getattr(image, "tag_v2", {})
    if image.format == "TIFF" and (
        image.mode == "RGB" or tags.get(_EXTRA_SAMPLES) == _PREMULTIPLIED
    ):
        return Image.fromarray(pixels)  # no alpha, or the colors are over black already
    alpha = to_eight_bits(np.ascontiguousarray(values[..., colours]), 16, where)
    return Image.fromarray(np.concatenate([pixels, alpha[..., None]], axis=2))


def bits_of(image: Image.Image) -> int:
    """Returns the bits per value of an opened TIFF that packs 12 of them; 0 for other images."""
    tags = getattr(image, "tag_v2", {})
    return 12 if image.format == "TIFF" and tags.get(_BITS_PER_SAMPLE) == (12,) else 0


def _is_unread(image: Image.Image) -> bool:
    return bool(getattr(image, "tile", None)) and getattr(image, "fp", None) is not None


def _content(image: Image.Image) -> bytes:
    """Returns the bytes of an opened file; keeps its position, from which PIL reads on."""
    file = image.fp  # type: ignore[attr-defined]
    position = file.tell()
    file.seek(0)
    try:
        return file.read()
    finally:
        file.seek(position)
