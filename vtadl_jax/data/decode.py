"""Decodes image files, arrays and prepared records to upright 8-bit pixels, and masks to booleans.

PIL decodes all formats but plain 8-bit PNG, the most common one: libpng decodes it to the same
pixels in half the time.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import imagecodecs
import numpy as np
from PIL import Image, ImageOps

from vtadl_jax.data.masks import Marked, understand
from vtadl_jax.errors import UserError

MAX_PIXELS = 20_000 * 20_000
# PIL rejects images above 179 million pixels as an attack; line-scan cameras make larger ones.
if Image.MAX_IMAGE_PIXELS is not None:
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, MAX_PIXELS)

Image.init()  # at import, not at the first TIFF: loading PIL's plugins is not thread-safe

END_MARKS = {".png": b"IEND", ".jpg": b"\xff\xd9", ".jpeg": b"\xff\xd9"}

_ORIENTATION = 0x0112  # EXIF tag


class Stored(Protocol):
    """Pixels that are not in an image file of their own; `str()` returns their place."""

    @property
    def mark(self) -> str:
        """A short text that differs for other content."""

    def read(self) -> np.ndarray:
        """Returns uint8 [h, w], [h, w, 1] or [h, w, 3]; a mask is 0 or 255. Raises UserError."""


ImageRef = Path | np.ndarray | Stored


def load_image(ref: ImageRef, channels: int) -> np.ndarray:
    """Loads a file, array or stored pixels: uint8 [h, w] (grey, always if `channels` is 1) or
    [h, w, 3].

    Applies the EXIF orientation. Converts all modes: looks up palettes, composes transparency over
    black, scales 16 bits by 255/65535 whatever the content, floats in [0, 1] by 255. Reads the
    first page of several. Raises UserError with the file if it is missing, empty, truncated, not an
    image, or too large.
    """
    if channels not in (1, 3):
        raise UserError(f"channels {channels} is neither 1 (grey) nor 3 (RGB): use one of them")
    pixels = _decode(ref) if isinstance(ref, Path) else _array(ref)
    if channels == 1 and pixels.ndim == 3:
        return np.array(Image.fromarray(pixels).convert("L"))
    return pixels


def is_grey(ref: ImageRef) -> bool:
    """Returns whether an image has no colour: one channel, or three equal ones."""
    pixels = load_image(ref, 3)
    return pixels.ndim == 2 or bool((pixels == pixels[..., :1]).all())


def load_mask(ref: ImageRef) -> np.ndarray:
    """Loads a mask as bool [h, w], upright, from the brightest channel; transparent is normal.

    Raises UserError as `load_image` and `masks.understand`.
    """
    return read_mask(ref).pixels


def read_mask(ref: ImageRef) -> Marked:
    """Loads a mask as `load_mask`, and says how its values were understood."""
    if not isinstance(ref, Path):
        return understand(_array(ref))
    with _opened(ref) as image:
        lossy = image.format == "JPEG"
        upright = _upright(image)
        if upright.mode not in ("1", "L") and not upright.mode.startswith(("I", "F")):
            upright = Image.fromarray(np.array(_over_black(upright).convert("RGB")).max(axis=2))
        pixels = np.array(upright)
    return understand(pixels, lossy, f"mask {ref}")


def image_size(path: Path) -> tuple[int, int]:
    """Returns (height, width) of the upright image from its header. Raises as `load_image`."""
    with _opened(path) as image:
        width, height = image.size
        return (width, height) if _orientation(image) in (5, 6, 7, 8) else (height, width)


def size_of(ref: ImageRef) -> tuple[int, int]:
    """Returns (height, width) of what `load_image` returns; for a file, from its header."""
    if isinstance(ref, Path):
        return image_size(ref)
    height, width = _array(ref).shape[:2]
    return height, width


def check_whole(path: Path) -> None:
    """Raises UserError if a file is truncated; decodes only formats without a known end mark."""
    with path.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(file.tell() - 4096, 0))
        tail = file.read()
    if path.suffix.lower() in END_MARKS and END_MARKS[path.suffix.lower()] in tail:
        return
    with _opened(path) as image:
        image.load()


def _decode(path: Path) -> np.ndarray:
    """Decodes a file to uint8 [h, w] or [h, w, 3]."""
    with _opened(path) as image:
        plain = image.mode in ("L", "RGB") and not image.has_transparency_data
        if image.format == "PNG" and plain and _orientation(image) == 1:
            try:
                pixels = _squeeze(imagecodecs.png_decode(path.read_bytes()))
            except imagecodecs.PngError:
                pass  # PIL has clearer errors, and reads files with harmless faults
            else:
                return _scaled(pixels) if pixels.dtype == np.uint16 else pixels
        eight = _over_black(_eight_bits(_upright(image), path))
        return np.array(eight.convert("L" if eight.mode in ("1", "L") else "RGB"))


def _array(ref: np.ndarray | Stored) -> np.ndarray:
    return _squeeze(ref if isinstance(ref, np.ndarray) else ref.read())


def _squeeze(pixels: np.ndarray) -> np.ndarray:
    return pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Opens a file with PIL; every error while reading becomes a UserError with its name."""
    try:
        # Not Image.open(path): PIL maps plain TIFF by its turned size and garbles the pixels.
        with Path(path).open("rb") as file, Image.open(file) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError(f"{image.width}×{image.height} pixels")
            yield image
    except UserError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(
            f"image {path} is larger than {MAX_PIXELS} pixels ({error}): cut it into tiles"
        ) from error
    except Exception as error:  # decoders raise nearly anything: struct.error, SyntaxError, …
        raise UserError(f"cannot read image {path}: {_reason(path, error)}") from error


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file, restore it"
    if Path(path).is_file() and Path(path).stat().st_size == 0:
        return "the file is empty, replace or remove it"
    if isinstance(error, Image.UnidentifiedImageError):
        return "it is not an image of a known kind, replace or remove it"
    return f"{' '.join(str(error).split()) or type(error).__name__}, replace or remove it"


def _orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation, 1 to 8, to apply; reads no pixels."""
    # PIL rotates TIFF itself. For a PNG without EXIF before its pixels, PIL would decode all of it.
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return 1
    return image.getexif().get(_ORIENTATION, 1)


def _upright(image: Image.Image) -> Image.Image:
    if _orientation(image) != 1:
        return ImageOps.exif_transpose(image)
    image.load()
    return image


def _over_black(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    black = Image.new("RGBA", image.size, (0, 0, 0, 255))
    return Image.alpha_composite(black, image.convert("RGBA"))


def _eight_bits(image: Image.Image, path: Path) -> Image.Image:
    """Converts 16-bit and float images to L; PIL's own convert would clip them at 255."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if image.mode == "F" and low >= 0 and high <= 1:
        return Image.fromarray(np.rint(values * 255).astype(np.uint8))
    # A float image up to 255 could be 8 or 16 bits: an error is better than a black image.
    if not (low >= 0 and high <= 65535) or (image.mode == "F" and high <= 255):
        raise UserError(
            f"image {path} holds {image.mode} values from {low} to {high}: "
            "save it with 8 or 16 bits, or as floats from 0 to 1"
        )
    return Image.fromarray(_scaled(values))


def _scaled(values: np.ndarray) -> np.ndarray:
    """Scales 16 bits to 8."""
    return np.rint(values / np.float32(257)).astype(np.uint8)
