"""Decodes image files, bytes, PIL images, arrays and prepared records to upright 8-bit pixels, and
masks to booleans.

All ways in give the same pixels. PIL decodes all formats but plain PNG, the most common one:
libpng decodes it to the same pixels in half the time, and 16 bits of color without loss.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from vtadl_jax.data.formats import open_file
from vtadl_jax.data.masks import Marked, understand
from vtadl_jax.data.modes import (
    bits_of,
    join_alpha,
    orientation_of,
    over_black,
    plain_png,
    to_pixels,
    turned,
    upright,
    wide_values,
)
from vtadl_jax.data.opening import decoding, opened, unread_content
from vtadl_jax.data.values import to_eight_bits
from vtadl_jax.errors import UserError, printable

END_MARKS = {".png": b"IEND", **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), b"\xff\xd9")}


class Stored(Protocol):
    """Pixels that are not in an image file of their own; `str()` returns their place."""

    @property
    def mark(self) -> str:
        """A short text that differs for other content."""

    def read(self) -> np.ndarray:
        """Returns uint8 [h, w], [h, w, 1] or [h, w, 3]; a mask is 0 or 255. Raises UserError."""


ImageRef = Path | np.ndarray | Stored
AnyImage = ImageRef | bytes | Image.Image


def load_image(ref: AnyImage, channels: int, bits: int = 0) -> np.ndarray:
    """Loads a file, its bytes, a PIL image, an array or stored pixels: uint8 [h, w] (grey, always
    if `channels` is 1) or [h, w, 3].

    Applies the EXIF orientation. Converts all modes: looks up palettes, composes transparency over
    black, scales 16 bits by 255 / (2^bits - 1) whatever the content (`bits` 0: all 16), floats in
    [0, 1] by 255. Raises UserError with the file if it is missing, empty, truncated, no image of
    the kinds in `formats`, of several pages, of unknown range, or too large.
    """
    with loaded(ref, channels, bits) as pixels:
        return pixels


@contextmanager
def loaded(ref: AnyImage, channels: int, bits: int = 0) -> Iterator[np.ndarray]:
    """Loads an image as `load_image` for a with block, in which other large images wait."""
    if channels not in (1, 3):
        raise UserError(f"channels {channels} is neither 1 (grey) nor 3 (RGB): use one of them")
    with ExitStack() as turn:
        if isinstance(ref, Path | bytes | Image.Image):
            pixels = _decode(ref, bits, turn)
        else:
            pixels = to_eight_bits(_array(ref), bits, "image")
            if not pixels.size or (pixels.ndim != 2 and (pixels.ndim != 3 or pixels.shape[2] != 3)):
                shape = "×".join(map(str, pixels.shape))
                raise UserError(
                    f"image array of uint8 {shape}: give [h, w], [h, w, 1] or [h, w, 3]"
                )
        if channels == 1 and pixels.ndim == 3:
            pixels = np.array(Image.fromarray(pixels).convert("L"))
        yield pixels


def is_grey(ref: ImageRef, bits: int = 0) -> bool:
    """Returns whether an image has no colour: one channel, or three equal ones."""
    pixels = load_image(ref, 3, bits)
    return pixels.ndim == 2 or bool((pixels == pixels[..., :1]).all())


def largest_value(ref: ImageRef) -> int | None:
    """Returns the largest value of an image file of 16 or 32 bits per channel.

    None for other images; of these it reads the header only. Raises UserError as `load_image`.
    """
    if not isinstance(ref, Path):
        return None
    with opened(ref) as image:
        values = wide_values(image)
        if values is None and image.mode.startswith("I") and not bits_of(image):
            values = np.asarray(image)
        return None if values is None else int(values.max())


def load_mask(ref: ImageRef) -> np.ndarray:
    """Loads a mask as bool [h, w], upright, from the brightest channel; transparent is normal.

    Raises UserError as `load_image` and `masks.understand`.
    """
    return read_mask(ref).pixels


def load_mask_of(image: ImageRef, mask: ImageRef, size: tuple[int, ...]) -> np.ndarray:
    """Loads the mask of an image of a size (height, width), as `load_mask`.

    Raises UserError, which names both, for a mask of another size.
    """
    pixels = load_mask(mask)
    if pixels.shape != size:
        raise UserError(
            f"mask {mask} is {pixels.shape} but its image {image} is {size}: save the mask at the "
            f"image's size"
        )
    return pixels


def read_mask(ref: ImageRef) -> Marked:
    """Loads a mask as `load_mask`, and says how its values were understood."""
    if not isinstance(ref, Path):
        return understand(_array(ref))
    with opened(ref) as image:
        lossy = image.format == "JPEG"
        whole = upright(image)
        if whole.mode not in ("1", "L") and not whole.mode.startswith(("I", "F")):
            whole = Image.fromarray(np.array(over_black(whole).convert("RGB")).max(axis=2))
        pixels = np.array(whole)
    return understand(pixels, lossy, f"mask {printable(ref)}")


def image_size(path: Path) -> tuple[int, int]:
    """Returns (height, width) of the upright image from its header. Raises as `load_image`."""
    with opened(path) as image:
        width, height = image.size
        return (width, height) if orientation_of(image) in (5, 6, 7, 8) else (height, width)


def size_of(ref: ImageRef) -> tuple[int, int]:
    """Returns (height, width) of what `load_image` returns; for a file, from its header."""
    if isinstance(ref, Path):
        return image_size(ref)
    height, width = _array(ref).shape[:2]
    return height, width


def check_whole(path: Path) -> None:
    """Raises UserError if a file is truncated; decodes only formats without a known end mark."""
    with open_file(path) as file:
        file.seek(0, 2)
        file.seek(max(file.tell() - 4096, 0))
        tail = file.read()
    if path.suffix.lower() in END_MARKS and END_MARKS[path.suffix.lower()] in tail:
        return
    with opened(path) as image:
        image.load()


def _decode(ref: Path | bytes | Image.Image, bits: int, turn: ExitStack) -> np.ndarray:
    """Decodes a file, its bytes or a PIL image to uint8 [h, w] or [h, w, 3].

    A PIL image whose pixels are not read yet is decoded from its file, because PIL keeps 8 of 16
    bits of each color.
    """
    if isinstance(ref, Image.Image):
        content = unread_content(ref)
        if content is None:
            with decoding(ref, turn):
                return to_pixels(upright(ref), bits, "image")
        ref = content
    with opened(ref, turn) as image:
        where = f"image {printable(ref)}" if isinstance(ref, Path) else "image"
        pixels = plain_png(image)
        if pixels is not None:
            return pixels
        values = wide_values(image)
        if values is None:
            return to_pixels(upright(image), bits or bits_of(image), where)
        whole = join_alpha(values, image, bits, where)
        return to_pixels(turned(whole, orientation_of(image, stored=True)), bits, where)


def _array(ref: np.ndarray | Stored) -> np.ndarray:
    pixels = ref if isinstance(ref, np.ndarray) else ref.read()
    return pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
